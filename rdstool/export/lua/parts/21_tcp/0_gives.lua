-- RDS over TCP. What it gives to the rest, and what it takes from 40_analysis.lua:
-- whether an ordinary message is just what was expected; and to be told what a peer has received.

local start_tcp, feed_tcp, feed_next, finish_tcp, read_segment
local connection_count
local is_next, acknowledged
