-- RDS over InfiniBand and RoCE. What it gives to the rest, and what it takes from 41_rules.lua.

local start_infiniband, finish_infiniband, feed_packet, feed_known, read_packet, whole_packet, start_cm
local orphans -- number of a frame -> it ends a SEND whose begin was not captured, and is not known to be RDS
local MAX_FRAGMENT_BYTES, FRAGMENT_BYTES, REQ, REJ, REP, key_of
-- Most packets are what is expected next: a shorter way for these. Opcode -> a function that takes such a packet, whole, and
-- returns whether it was one: of the flow, its number, what follows BTH or the whole of its frame from IPv4 on, which of these
-- it is, whether it is solicited, number of the frame, pinfo.
local EXPECTED = {}
local check_fragment, check_cm
