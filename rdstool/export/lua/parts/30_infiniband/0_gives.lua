-- RDS over InfiniBand and RoCE. What it gives to the rest, and what it takes from 41_rules.lua.

local start_infiniband, finish_infiniband, feed_packet, read_packet, start_cm
local MAX_FRAGMENT_BYTES, FRAGMENT_BYTES, REQ, REJ, REP, key_of
local check_fragment, check_cm
