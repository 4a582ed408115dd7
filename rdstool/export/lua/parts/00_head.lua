-- RDS (Reliable Datagram Sockets) for Wireshark and tshark: over TCP, InfiniBand and RoCE.
--
-- Made by `rdstool lua export` of rdstool @VERSION@ from the field tables of rdstool and the parts in
-- rdstool/export/lua/parts; change those. Runs on Wireshark 4.0 (Lua 5.2) and later (Lua 5.4).
-- `rdstool lua install` puts it where Wireshark looks for plugins; "protocol.md" is docs/protocol.md of rdstool.
-- SPDX-License-Identifier: GPL-2.0-or-later

local PLUGIN_VERSION = "@VERSION@"

set_plugin_info({
   version = PLUGIN_VERSION,
   author = "rdstool",
   description = "RDS over TCP, InfiniBand and RoCE",
})

local rds = Proto("rds", "Reliable Datagram Sockets")
-- What belongs to RDS and is no message: apart, so that the filter `rds` finds messages.
local rds_part = Proto("rds_part", "Reliable Datagram Sockets, part of a message, acknowledgement, or connection")
local rds_cm = Proto("rds_cm", "Reliable Datagram Sockets, connection set-up")
local rds_rdma = Proto("rds_rdma", "Reliable Datagram Sockets, RDMA operation")

-- They are no dissectors of their own, but only what has one can be asked whether somebody looks for it.
for _, proto in ipairs({ rds_part, rds_cm, rds_rdma }) do
   function proto.dissector()
      return 0
   end
end
