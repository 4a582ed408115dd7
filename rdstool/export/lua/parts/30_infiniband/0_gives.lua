-- RDS over InfiniBand and RoCE. What it gives to the rest, and what it takes from 41_rules.lua.

local start_infiniband, finish_infiniband, feed_packet, feed_known, read_packet, whole_packet, take_middle, start_cm
local orphans -- number of a frame -> it ends a SEND whose begin was not captured, and is not known to be RDS
local SEND_MIDDLE, MAX_FRAGMENT_BYTES, FRAGMENT_BYTES, REQ, REJ, REP, key_of
local check_fragment, check_cm
