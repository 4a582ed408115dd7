-- The payload of rds-stress in RDS messages: an example of a dissector for the tables `rds.port` and `rds.payload`.
--
-- Goes with rds.lua. Tasks of rds-stress bind the ports that follow its starting port (4000); name others in the
-- preferences: `tshark -o rds_stress.ports:7000-7010`, or have it read all payload: `tshark -d rds.payload,rds_stress`.
-- Layout: docs/protocol.md 12.2 of rdstool. SPDX-License-Identifier: GPL-2.0-or-later

local stress = Proto("rds_stress", "rds-stress")

local OPERATIONS = { [1] = "request", [2] = "acknowledgement" }
local RDMA_OPERATIONS = { [0] = "none", [1] = "read", [2] = "write" }

-- Field, and its offset and size in bytes. All are big-endian.
local LAYOUT = {
   { ProtoField.uint32("rds_stress.sequence", "Sequence"), 0, 4 },
   { ProtoField.ipv4("rds_stress.from_addr", "From address"), 4, 4 },
   { ProtoField.ipv4("rds_stress.to_addr", "To address"), 8, 4 },
   { ProtoField.uint16("rds_stress.from_port", "From port"), 12, 2 },
   { ProtoField.uint16("rds_stress.to_port", "To port"), 14, 2 },
   { ProtoField.uint16("rds_stress.index", "Request slot"), 16, 2 },
   { ProtoField.uint8("rds_stress.op", "Operation", base.DEC, OPERATIONS), 18, 1 },
   { ProtoField.uint8("rds_stress.rdma_op", "RDMA operation", base.DEC, RDMA_OPERATIONS), 19, 1 },
   { ProtoField.uint64("rds_stress.rdma_addr", "RDMA address", base.HEX), 20, 8 },
   { ProtoField.uint64("rds_stress.rdma_phyaddr", "RDMA physical address", base.HEX), 28, 8 },
   { ProtoField.uint64("rds_stress.rdma_pattern", "RDMA pattern", base.HEX), 36, 8 },
   { ProtoField.uint64("rds_stress.rdma_key", "RDMA key", base.HEX), 44, 8 },
   { ProtoField.uint32("rds_stress.rdma_size", "RDMA size"), 52, 4 },
   { ProtoField.uint32("rds_stress.rdma_vector", "RDMA vectors"), 56, 4 },
   { ProtoField.uint8("rds_stress.retry", "Retry"), 60, 1 },
   { ProtoField.uint8("rds_stress.rdma_remote_err", "RDMA remote error"), 61, 1 },
   { ProtoField.uint8("rds_stress.pending", "Pending"), 62, 1 },
}
local HEADER_BYTES = 63
local body = ProtoField.bytes("rds_stress.data", "Data")

local all = { body }
for _, row in ipairs(LAYOUT) do
   table.insert(all, row[1])
end
stress.fields = all
stress.prefs.ports = Pref.range("RDS ports", "4001-4032", "RDS ports that tasks of rds-stress are bound to", 65535)

function stress.dissector(tvb, _, root)
   if tvb:len() < HEADER_BYTES then
      return 0
   end
   local operation = OPERATIONS[tvb(18, 1):uint()]
   if not operation then
      return 0
   end
   local tree = root:add(stress, tvb())
   tree:append_text(string.format(", %s %d, slot %d", operation, tvb(0, 4):uint(), tvb(16, 2):uint()))
   for _, row in ipairs(LAYOUT) do
      tree:add(row[1], tvb(row[2], row[3]))
   end
   if tvb:len() > HEADER_BYTES then
      tree:add(body, tvb(HEADER_BYTES))
   end
   return tvb:len()
end

local registered = ""

local function set_ports(text)
   local dissectors = DissectorTable.get("rds.port")
   if registered ~= "" then
      dissectors:remove(registered, stress)
   end
   if text ~= "" then
      dissectors:add(text, stress)
   end
   registered = text
end

set_ports(stress.prefs.ports)

function stress.prefs_changed()
   if stress.prefs.ports ~= registered then
      set_ports(stress.prefs.ports)
   end
end

-- Who is to be offered by "Decode As", in Wireshark 4.4 and later.
local payload = DissectorTable.get("rds.payload")
if payload then
   payload:add_for_decode_as(stress)
end
