-- RDS (Reliable Datagram Sockets) for Wireshark and tshark: over TCP, InfiniBand and RoCE.
--
-- Made by `rdstool lua export` of rdstool 0.1.0 from the field tables of rdstool and the parts in
-- rdstool/export/lua/parts; change those. Runs on Wireshark 4.0 (Lua 5.2) and later (Lua 5.4).
-- `rdstool lua install` puts it where Wireshark looks for plugins; "protocol.md" is docs/protocol.md of rdstool.
-- SPDX-License-Identifier: GPL-2.0-or-later

local PLUGIN_VERSION = "0.1.0"

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

-- Fields: the names are those of `rdstool fields`.

local fields = {}

fields["rds.sequence"] = ProtoField.uint64("rds.sequence", "Sequence", base.DEC, nil, nil, "Message number on its path; 0 for congestion bitmaps and ack-only frames")
fields["rds.ack"] = ProtoField.uint64("rds.ack", "Acknowledged sequence", base.DEC, nil, nil, "Highest sequence completely received (InfiniBand); always 0 over TCP")
fields["rds.length"] = ProtoField.uint32("rds.length", "Length", base.DEC, nil, nil, "Payload bytes of the whole message, header excluded")
fields["rds.sport"] = ProtoField.uint16("rds.sport", "Source port", base.DEC, nil, nil, "RDS source port; 0 for a pong, 1 for a handshake probe")
fields["rds.dport"] = ProtoField.uint16("rds.dport", "Destination port", base.DEC, nil, nil, "RDS destination port; 0 for a ping")
fields["rds.flags"] = ProtoField.uint8("rds.flags", "Flags", base.HEX, nil, nil, "Flags")
fields["rds.flags.cong_bitmap"] = ProtoField.bool("rds.flags.cong_bitmap", "Congestion bitmap", 8, { "Set", "Not set" }, 0x1, "Payload is a congestion bitmap")
fields["rds.flags.ack_required"] = ProtoField.bool("rds.flags.ack_required", "Acknowledgement required", 8, { "Set", "Not set" }, 0x2, "Receiver must acknowledge this message (InfiniBand only)")
fields["rds.flags.retransmitted"] = ProtoField.bool("rds.flags.retransmitted", "Retransmitted", 8, { "Set", "Not set" }, 0x4, "Message may have been sent before")
fields["rds.flags.hb_ping"] = ProtoField.bool("rds.flags.hb_ping", "Heartbeat ping", 8, { "Set", "Not set" }, 0x8, "Heartbeat request (UEK only)")
fields["rds.flags.hb_pong"] = ProtoField.bool("rds.flags.hb_pong", "Heartbeat pong", 8, { "Set", "Not set" }, 0x10, "Heartbeat answer (UEK only)")
fields["rds.flags.exthdr_extension"] = ProtoField.bool("rds.flags.exthdr_extension", "Several extension headers", 8, { "Set", "Not set" }, 0x20, "Several extension headers: RDMA_BYTES is present (7.0 and later)")
fields["rds.credit"] = ProtoField.uint8("rds.credit", "Credit", base.DEC, nil, nil, "Receive credits granted to the peer (InfiniBand flow control)")
fields["rds.padding"] = ProtoField.bytes("rds.padding", "Padding", base.NONE, "Unused, zero")
fields["rds.checksum"] = ProtoField.uint16("rds.checksum", "Checksum", base.HEX, nil, nil, "Internet checksum of the 48 header bytes; 0 = none")
fields["rds.exthdr"] = ProtoField.bytes("rds.exthdr", "Extension headers", base.NONE, "Extension headers, zero-filled")
fields["rds.exthdr.version"] = ProtoField.none("rds.exthdr.version", "VERSION")
fields["rds.exthdr.version.version"] = ProtoField.uint32("rds.exthdr.version.version", "Version", base.DEC, nil, nil, "Protocol version")
fields["rds.exthdr.rdma"] = ProtoField.none("rds.exthdr.rdma", "RDMA")
fields["rds.exthdr.rdma.rkey"] = ProtoField.uint32("rds.exthdr.rdma.rkey", "R_Key", base.HEX, nil, nil, "R_Key of the memory region that the RDMA used")
fields["rds.exthdr.rdma_dest"] = ProtoField.none("rds.exthdr.rdma_dest", "RDMA_DEST")
fields["rds.exthdr.rdma_dest.rkey"] = ProtoField.uint32("rds.exthdr.rdma_dest.rkey", "R_Key", base.HEX, nil, nil, "R_Key of the offered memory region")
fields["rds.exthdr.rdma_dest.offset"] = ProtoField.uint32("rds.exthdr.rdma_dest.offset", "Offset", base.DEC, nil, nil, "Offset of the memory from the region's first page")
fields["rds.exthdr.rdma_bytes"] = ProtoField.none("rds.exthdr.rdma_bytes", "RDMA_BYTES")
fields["rds.exthdr.rdma_bytes.length"] = ProtoField.uint32("rds.exthdr.rdma_bytes.length", "Length", base.DEC, nil, nil, "Bytes moved")
fields["rds.exthdr.rdma_bytes.direction"] = ProtoField.uint8("rds.exthdr.rdma_bytes.direction", "Direction", base.DEC, { [1] = "write", [2] = "read" }, nil, "What the RDMA did")
fields["rds.exthdr.rdma_bytes.padding"] = ProtoField.bytes("rds.exthdr.rdma_bytes.padding", "Padding", base.NONE, "Unused, zero")
fields["rds.exthdr.npaths"] = ProtoField.uint16("rds.exthdr.npaths", "Number of paths", base.DEC, nil, nil, "Number of paths that the sender supports")
fields["rds.exthdr.gen_num"] = ProtoField.uint32("rds.exthdr.gen_num", "Generation number", base.HEX, nil, nil, "Generation number of the sender's kernel")
fields["rds.exthdr.cap_bits"] = ProtoField.uint32("rds.exthdr.cap_bits", "Capabilities", base.HEX, nil, nil, "Capabilities")
fields["rds.exthdr.cap_bits.heartbeat"] = ProtoField.bool("rds.exthdr.cap_bits.heartbeat", "Heartbeat", 32, { "Set", "Not set" }, 0x1, "Heartbeats are understood")
fields["rds.exthdr.sport_idx"] = ProtoField.uint8("rds.exthdr.sport_idx", "Source port index", base.DEC, nil, nil, "Always 0; its presence says that TCP source port modulo paths is the path")
fields["rds.exthdr.csum"] = ProtoField.none("rds.exthdr.csum", "CSUM")
fields["rds.exthdr.csum.checksum"] = ProtoField.uint32("rds.exthdr.csum.checksum", "Checksum", base.HEX, nil, nil, "Checksum of the payload")
fields["rds.exthdr.csum.enabled"] = ProtoField.uint8("rds.exthdr.csum.enabled", "Enabled", base.DEC, nil, nil, "1 where the checksum is to be verified")
fields["rds.exthdr.csum.padding"] = ProtoField.bytes("rds.exthdr.csum.padding", "Padding", base.NONE, "Unused")
fields["rds.number"] = ProtoField.uint32("rds.number", "Message number", base.DEC, nil, nil, "Number of the message in the capture")
fields["rds.kind"] = ProtoField.string("rds.kind", "Kind", "Kind of message: data, congestion, ping, probe, ...")
fields["rds.transport"] = ProtoField.string("rds.transport", "Transport", "What carried the message: tcp or ib")
fields["rds.src"] = ProtoField.string("rds.src", "Source address", "Source address")
fields["rds.dst"] = ProtoField.string("rds.dst", "Destination address", "Destination address")
fields["rds.addr"] = ProtoField.string("rds.addr", "Source or destination address", "Source or destination address")
fields["rds.port"] = ProtoField.uint16("rds.port", "Source or destination port", base.DEC, nil, nil, "RDS source or destination port")
fields["rds.stream"] = ProtoField.uint32("rds.stream", "Stream", base.DEC, nil, nil, "Number of the TCP connection or queue-pair pair")
fields["rds.path"] = ProtoField.uint8("rds.path", "Path", base.DEC, nil, nil, "Path of the RDS connection, where known")
fields["rds.fragments"] = ProtoField.uint32("rds.fragments", "Fragments", base.DEC, nil, nil, "InfiniBand frames of the message; 1 over TCP")
fields["rds.seen"] = ProtoField.uint32("rds.seen", "Captured bytes", base.DEC, nil, nil, "Payload bytes that the capture holds")
fields["rds.complete"] = ProtoField.bool("rds.complete", "Complete", base.NONE, nil, nil, "The capture holds all of the payload")
fields["rds.inferred"] = ProtoField.bool("rds.inferred", "Found by search", base.NONE, nil, nil, "The message's boundary was found by search")
fields["rds.checksum.status"] = ProtoField.string("rds.checksum.status", "Checksum status", "Header checksum: absent, good or bad")
fields["rds.exthdr.type"] = ProtoField.uint8("rds.exthdr.type", "Type", base.DEC, { [0] = "NONE", [1] = "VERSION", [2] = "RDMA", [3] = "RDMA_DEST", [4] = "RDMA_BYTES", [5] = "NPATHS", [6] = "GEN_NUM", [7] = "CAP_BITS", [8] = "SPORT_IDX", [9] = "CSUM" }, nil, "Type of an extension header")
fields["rds.exthdr.problem"] = ProtoField.string("rds.exthdr.problem", "Problem", "What is wrong with the extension headers")
fields["rds.congested"] = ProtoField.uint16("rds.congested", "Congested port", base.DEC, nil, nil, "A port that a congestion bitmap marks")
fields["rds.payload"] = ProtoField.bytes("rds.payload", "Payload", base.NONE, "Payload bytes that the capture holds")
fields["rds.rdma.kind"] = ProtoField.string("rds.rdma.kind", "Kind", "RDMA operation: rdma-read, rdma-write, ...")
fields["rds.rdma.va"] = ProtoField.uint64("rds.rdma.va", "Virtual address", base.HEX, nil, nil, "Remote address of an RDMA operation")
fields["rds.rdma.rkey"] = ProtoField.uint32("rds.rdma.rkey", "R_Key", base.HEX, nil, nil, "Key of an RDMA operation")
fields["rds.rdma.length"] = ProtoField.uint32("rds.rdma.length", "Length", base.DEC, nil, nil, "Bytes of an RDMA operation")
fields["rds.rdma.status"] = ProtoField.string("rds.rdma.status", "Status", "Outcome of an RDMA operation")
fields["rds.cm.message"] = ProtoField.string("rds.cm.message", "Message", "Kind of RDMA-CM message: REQ, REP, RTU, ...")
fields["rds.cm"] = ProtoField.none("rds.cm", "RDS private data")
fields["rds.cm.saddr"] = ProtoField.string("rds.cm.saddr", "Source address", "Sender's RDS address")
fields["rds.cm.daddr"] = ProtoField.string("rds.cm.daddr", "Destination address", "Receiver's RDS address")
fields["rds.cm.major"] = ProtoField.uint8("rds.cm.major", "Major version", base.DEC, nil, nil, "Protocol version, major; 0 = not given")
fields["rds.cm.minor"] = ProtoField.uint8("rds.cm.minor", "Minor version", base.DEC, nil, nil, "Protocol version, minor")
fields["rds.cm.minor_mask"] = ProtoField.uint16("rds.cm.minor_mask", "Minor versions supported", base.HEX, nil, nil, "Minor versions supported with major 4, bit n = minor n")
fields["rds.cm.tos"] = ProtoField.uint8("rds.cm.tos", "Type of service", base.DEC, nil, nil, "Type of service of the connection")
fields["rds.cm.reserved"] = ProtoField.uint8("rds.cm.reserved", "Reserved", base.DEC, nil, nil, "Reserved")
fields["rds.cm.fragment_size"] = ProtoField.uint16("rds.cm.fragment_size", "Fragment size", base.DEC, nil, nil, "Fragment size in bytes (UEK only); 0 from mainline")
fields["rds.cm.ack_seq"] = ProtoField.uint64("rds.cm.ack_seq", "Acknowledged sequence", base.DEC, nil, nil, "Last sequence received; 0 = none")
fields["rds.cm.credit"] = ProtoField.uint32("rds.cm.credit", "Credit", base.DEC, nil, nil, "Initial receive credits; 0 = no flow control")
fields["rds.cm.tail"] = ProtoField.uint32("rds.cm.tail", "Tail", base.DEC, nil, nil, "Padding of the structure")
fields["rds.cm.code"] = ProtoField.uint32("rds.cm.code", "Reject code", base.HEX, nil, nil, "1 = incompatible version or crossing requests; 0x04010020 = refused by access list (UEK)")
fields["rds.cm.ip"] = ProtoField.none("rds.cm.ip", "RDMA-CM IP header")
fields["rds.cm.ip.version"] = ProtoField.uint8("rds.cm.ip.version", "Version", base.HEX, nil, nil, "Version, 0")
fields["rds.cm.ip.ip_version"] = ProtoField.uint8("rds.cm.ip.ip_version", "IP version", base.DEC, nil, 0xf0, "IP version")
fields["rds.cm.ip.reserved"] = ProtoField.uint8("rds.cm.ip.reserved", "Reserved", base.DEC, nil, 0xf, "Reserved")
fields["rds.cm.ip.sport"] = ProtoField.uint16("rds.cm.ip.sport", "Source port", base.DEC, nil, nil, "Source port")
fields["rds.cm.ip.saddr"] = ProtoField.string("rds.cm.ip.saddr", "Source address", "Source address; IPv4 in the last four bytes")
fields["rds.cm.ip.daddr"] = ProtoField.string("rds.cm.ip.daddr", "Destination address", "Destination address; IPv4 in the last four bytes")

-- What only the plugin adds.

fields["rds.connection"] = ProtoField.string("rds.connection", "Connection", "The two addresses of the connection")
fields["rds.direction"] = ProtoField.uint8("rds.direction", "Direction", base.DEC, { [0] = "from the opening end", [1] = "to the opening end" }, nil, "0: from the end that opened the stream; 1: back")
fields["rds.position"] = ProtoField.uint64("rds.position", "Position in the stream", base.DEC, nil, nil, "Stream offset of the header (TCP), number of its first packet (InfiniBand)")
fields["rds.frame"] = ProtoField.framenum("rds.frame", "Completed in frame", base.NONE, nil, nil, "Frame that completed the message")
fields["rds.first_frame"] = ProtoField.framenum("rds.first_frame", "First frame", base.NONE, nil, nil, "Frame that holds the first byte of the header")
fields["rds.expected"] = ProtoField.uint64("rds.expected", "Expected sequence", base.DEC, nil, nil, "Next sequence that the receiver expects")
fields["rds.retransmission_of"] = ProtoField.framenum("rds.retransmission_of", "Retransmission of frame", base.NONE, nil, nil, "Frame of the first copy")
fields["rds.request_in"] = ProtoField.framenum("rds.request_in", "Request in", base.NONE, nil, nil, "Frame of the ping that this pong answers")
fields["rds.response_in"] = ProtoField.framenum("rds.response_in", "Response in", base.NONE, nil, nil, "Frame of the pong that answers this ping")
fields["rds.response_time"] = ProtoField.relative_time("rds.response_time", "Response time", "Time since the ping")
fields["rds.acked_in"] = ProtoField.framenum("rds.acked_in", "Acknowledged in frame", base.NONE, nil, nil, "Frame that acknowledges the message")
fields["rds.acknowledges"] = ProtoField.framenum("rds.acknowledges", "Acknowledges messages up to frame", base.NONE, nil, nil, "Frame of the last message that this frame acknowledges")
fields["rds.acknowledges.count"] = ProtoField.uint32("rds.acknowledges.count", "Acknowledged messages", base.DEC, nil, nil, "Messages that this frame acknowledges")
fields["rds.ack_time"] = ProtoField.relative_time("rds.ack_time", "Time to acknowledgement", "Time from that message to its acknowledgement")
fields["rds.congested.set"] = ProtoField.uint16("rds.congested.set", "Newly congested port", base.DEC, nil, nil, "A port that was not marked in the bitmap before")
fields["rds.congested.cleared"] = ProtoField.uint16("rds.congested.cleared", "No longer congested port", base.DEC, nil, nil, "A port that was marked in the bitmap before, and is no more")
fields["rds.stream.event"] = ProtoField.string("rds.stream.event", "Stream event", "Beginning or end of a stream: opened, FIN, RST or DREQ")
fields["rds.stream.a"] = ProtoField.string("rds.stream.a", "Opening end", "End that opened the stream: address/port")
fields["rds.stream.b"] = ProtoField.string("rds.stream.b", "Other end", "The other end")
fields["rds.stream.from_start"] = ProtoField.bool("rds.stream.from_start", "Captured from its start", base.NONE, nil, nil, "The capture holds the stream's beginning")
fields["rds.cm.transaction"] = ProtoField.bytes("rds.cm.transaction", "Transaction", "Transaction of an RDMA-CM message")
fields["rds.cm.problem"] = ProtoField.string("rds.cm.problem", "Problem", "What is wrong with an RDMA-CM message")
fields["rds.cm.bytes"] = ProtoField.bytes("rds.cm.bytes", "RDMA-CM message", "Whole RDMA-CM message behind the header of its datagram")
fields["rds.rdma.operand"] = ProtoField.bytes("rds.rdma.operand", "Operand", "Operand of an atomic; its last is the value that was found")
fields["rds.rdma.psn"] = ProtoField.uint64("rds.rdma.psn", "Packet sequence number", base.DEC, nil, nil, "Number of the first packet")
fields["rds.rdma.id"] = ProtoField.uint32("rds.rdma.id", "RDMA operation", base.DEC, nil, nil, "Number of an RDMA operation in the capture")
fields["rds.rdma.announced"] = ProtoField.uint32("rds.rdma.announced", "Announced RDMA operation", base.DEC, nil, nil, "Number of an RDMA operation that this message announces")
fields["rds.rdma.seen"] = ProtoField.uint32("rds.rdma.seen", "Captured bytes", base.DEC, nil, nil, "Payload bytes of an RDMA operation that the capture holds")

-- A table of Wireshark, not of Lua: it takes whole lists only.
local all_fields = {}
for _, field in pairs(fields) do
   table.insert(all_fields, field)
end
rds.fields = all_fields

-- Where they lie: name, offset and size in bytes.

local HEADER_FIELDS = {
   { "rds.sequence", 0, 8 },
   { "rds.ack", 8, 8 },
   { "rds.length", 16, 4 },
   { "rds.sport", 20, 2 },
   { "rds.dport", 22, 2 },
   { "rds.flags", 24, 1 },
   { "rds.credit", 25, 1 },
   { "rds.padding", 26, 4 },
   { "rds.checksum", 30, 2 },
   { "rds.exthdr", 32, 16 },
}

-- Flags: field, mask and name.
local FLAG_FIELDS = {
   { "rds.flags.cong_bitmap", 1, "CONG_BITMAP" },
   { "rds.flags.ack_required", 2, "ACK_REQUIRED" },
   { "rds.flags.retransmitted", 4, "RETRANSMITTED" },
   { "rds.flags.hb_ping", 8, "HB_PING" },
   { "rds.flags.hb_pong", 16, "HB_PONG" },
   { "rds.flags.exthdr_extension", 32, "EXTHDR_EXTENSION" },
}

-- Extension headers by type. `uncommon`: mainline kernels do not send it.
local EXTENSIONS = {
   [1] = { name = "VERSION", size = 4, field = "rds.exthdr.version", uncommon = true, fields = { { "rds.exthdr.version.version", 0, 4 } } },
   [2] = { name = "RDMA", size = 4, field = "rds.exthdr.rdma", rdma = true, fields = { { "rds.exthdr.rdma.rkey", 0, 4 } } },
   [3] = { name = "RDMA_DEST", size = 8, field = "rds.exthdr.rdma_dest", rdma = true, fields = { { "rds.exthdr.rdma_dest.rkey", 0, 4 }, { "rds.exthdr.rdma_dest.offset", 4, 4 } } },
   [4] = { name = "RDMA_BYTES", size = 8, field = "rds.exthdr.rdma_bytes", rdma = true, fields = { { "rds.exthdr.rdma_bytes.length", 0, 4 }, { "rds.exthdr.rdma_bytes.direction", 4, 1 }, { "rds.exthdr.rdma_bytes.padding", 5, 3 } } },
   [5] = { name = "NPATHS", size = 2, handshake = true, fields = { { "rds.exthdr.npaths", 0, 2 } } },
   [6] = { name = "GEN_NUM", size = 4, handshake = true, fields = { { "rds.exthdr.gen_num", 0, 4 } } },
   [7] = { name = "CAP_BITS", size = 4, uncommon = true, fields = { { "rds.exthdr.cap_bits", 0, 4 }, { "rds.exthdr.cap_bits.heartbeat", 0, 4 } } },
   [8] = { name = "SPORT_IDX", size = 1, handshake = true, fields = { { "rds.exthdr.sport_idx", 0, 1 } } },
   [9] = { name = "CSUM", size = 8, field = "rds.exthdr.csum", uncommon = true, fields = { { "rds.exthdr.csum.checksum", 0, 4 }, { "rds.exthdr.csum.enabled", 4, 1 }, { "rds.exthdr.csum.padding", 5, 3 } } },
}

local EXT = {
   RDMA = 2,
   RDMA_DEST = 3,
   RDMA_BYTES = 4,
   NPATHS = 5,
   GEN_NUM = 6,
   SPORT_IDX = 8,
}

-- RDMA-CM: IP header, RDS private data by IP version, services, reasons of a REJ.
local CM_IP = {
   { "rds.cm.ip.version", 0, 1 },
   { "rds.cm.ip.ip_version", 1, 1 },
   { "rds.cm.ip.reserved", 1, 1 },
   { "rds.cm.ip.sport", 2, 2 },
   { "rds.cm.ip.saddr", 4, 16, "address" },
   { "rds.cm.ip.daddr", 20, 16, "address" },
}

local CM_PRIVATE = {
   [4] = {
      size = 32,
      fields = {
         { "rds.cm.saddr", 0, 4, "address" },
         { "rds.cm.daddr", 4, 4, "address" },
         { "rds.cm.major", 8, 1 },
         { "rds.cm.minor", 9, 1 },
         { "rds.cm.minor_mask", 10, 2 },
         { "rds.cm.tos", 12, 1 },
         { "rds.cm.reserved", 13, 1 },
         { "rds.cm.fragment_size", 14, 2 },
         { "rds.cm.ack_seq", 16, 8 },
         { "rds.cm.credit", 24, 4 },
         { "rds.cm.tail", 28, 4 },
      },
   },
   [6] = {
      size = 56,
      fields = {
         { "rds.cm.saddr", 0, 16, "address" },
         { "rds.cm.daddr", 16, 16, "address" },
         { "rds.cm.major", 32, 1 },
         { "rds.cm.minor", 33, 1 },
         { "rds.cm.minor_mask", 34, 2 },
         { "rds.cm.tos", 36, 1 },
         { "rds.cm.reserved", 37, 1 },
         { "rds.cm.fragment_size", 38, 2 },
         { "rds.cm.ack_seq", 40, 8 },
         { "rds.cm.credit", 48, 4 },
         { "rds.cm.tail", 52, 4 },
      },
   },
}

local RDS_SERVICES = {
   ["\000\000\000\000\001\006\072\202"] = 4,
   ["\000\000\000\000\001\006\064\001"] = 6,
}

local REJECT_REASONS = { [1] = "NO_QP", [3] = "NO_RESOURCES", [4] = "TIMEOUT", [5] = "UNSUPPORTED_REQUEST", [6] = "INVALID_COMMUNICATION_ID", [8] = "INVALID_SERVICE_ID", [9] = "INVALID_TRANSPORT_SERVICE_TYPE", [10] = "STALE_CONNECTION", [12] = "INVALID_GID", [24] = "PORT_CM_REDIRECT", [25] = "PORT_REDIRECT", [26] = "INVALID_MTU", [27] = "INSUFFICIENT_RESPONDER_RESOURCES", [28] = "CONSUMER", [30] = "DUPLICATE_LOCAL_COMMUNICATION_ID" }

-- Rules of `rdstool validate`; `rdstool validate --explain RDS-HDR-001` tells more.

local RULES = {
   ["RDS-HDR-001"] = { severity = "error", group = "check_hdr" },
   ["RDS-HDR-002"] = { severity = "error", group = "check_hdr" },
   ["RDS-HDR-003"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-004"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-005"] = { severity = "error", group = "check_hdr" },
   ["RDS-HDR-006"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-007"] = { severity = "note", group = "check_hdr" },
   ["RDS-HDR-008"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-009"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-010"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-011"] = { severity = "warning", group = "check_hdr" },
   ["RDS-HDR-012"] = { severity = "warning", group = "check_hdr" },
   ["RDS-EXT-001"] = { severity = "error", group = "check_ext" },
   ["RDS-EXT-002"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-003"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-004"] = { severity = "note", group = "check_ext" },
   ["RDS-EXT-005"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-006"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-008"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-009"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-010"] = { severity = "warning", group = "check_ext" },
   ["RDS-EXT-011"] = { severity = "warning", group = "check_ext" },
   ["RDS-SEQ-001"] = { severity = "warning", group = "check_seq" },
   ["RDS-SEQ-002"] = { severity = "error", group = "check_seq" },
   ["RDS-SEQ-003"] = { severity = "note", group = "check_seq" },
   ["RDS-SEQ-004"] = { severity = "warning", group = "check_seq" },
   ["RDS-RTX-003"] = { severity = "warning", group = "check_rtx" },
   ["RDS-RTX-004"] = { severity = "warning", group = "check_rtx" },
   ["RDS-RTX-005"] = { severity = "warning", group = "check_rtx" },
   ["RDS-ACK-001"] = { severity = "warning", group = "check_ack" },
   ["RDS-ACK-003"] = { severity = "warning", group = "check_ack" },
   ["RDS-CNG-001"] = { severity = "error", group = "check_cng" },
   ["RDS-CNG-002"] = { severity = "error", group = "check_cng" },
   ["RDS-CNG-003"] = { severity = "warning", group = "check_cng" },
   ["RDS-CNG-006"] = { severity = "warning", group = "check_cng" },
   ["RDS-CMR-001"] = { severity = "warning", group = "check_cmr" },
   ["RDS-CMR-002"] = { severity = "warning", group = "check_cmr" },
   ["RDS-CMR-003"] = { severity = "error", group = "check_cmr" },
   ["RDS-CMR-004"] = { severity = "error", group = "check_cmr" },
   ["RDS-CMR-005"] = { severity = "error", group = "check_cmr" },
   ["RDS-CMR-006"] = { severity = "error", group = "check_cmr" },
   ["RDS-CMR-007"] = { severity = "error", group = "check_cmr" },
   ["RDS-CMR-008"] = { severity = "note", group = "check_cmr" },
   ["RDS-CMR-009"] = { severity = "note", group = "check_cmr" },
   ["RDS-CMR-010"] = { severity = "note", group = "check_cmr" },
   ["RDS-CMR-011"] = { severity = "note", group = "check_cmr" },
   ["RDS-FRG-001"] = { severity = "error", group = "check_frg" },
   ["RDS-FRG-002"] = { severity = "error", group = "check_frg" },
   ["RDS-FRG-003"] = { severity = "error", group = "check_frg" },
   ["RDS-FRG-004"] = { severity = "error", group = "check_frg" },
   ["RDS-FRG-005"] = { severity = "warning", group = "check_frg" },
   ["RDS-CRD-003"] = { severity = "note", group = "check_crd" },
   ["RDS-RDM-002"] = { severity = "warning", group = "check_rdm" },
   ["RDS-RDM-003"] = { severity = "warning", group = "check_rdm" },
   ["RDS-RDM-005"] = { severity = "warning", group = "check_rdm" },
   ["RDS-RDM-006"] = { severity = "note", group = "check_rdm" },
}

local experts = {
   ["RDS-HDR-001/error"] = ProtoExpert.new("rds.rule.hdr_001", "A frame is shorter than an RDS header", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-HDR-002/error"] = ProtoExpert.new("rds.rule.hdr_002", "A message announces more than 1 MiB", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-HDR-003/warning"] = ProtoExpert.new("rds.rule.hdr_003", "Padding bytes of the header are not zero", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-004/warning"] = ProtoExpert.new("rds.rule.hdr_004", "Flag bits that no kernel knows", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-004/note"] = ProtoExpert.new("rds.rule.hdr_004.note", "Flag bits that no kernel knows", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-HDR-005/error"] = ProtoExpert.new("rds.rule.hdr_005", "The header checksum is wrong", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-HDR-005/warning"] = ProtoExpert.new("rds.rule.hdr_005.warning", "The header checksum is wrong", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-006/warning"] = ProtoExpert.new("rds.rule.hdr_006", "An InfiniBand frame carries no header checksum", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-007/note"] = ProtoExpert.new("rds.rule.hdr_007", "A TCP message carries a header checksum", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-HDR-008/warning"] = ProtoExpert.new("rds.rule.hdr_008", "h_ack or h_credit is set on a TCP message", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-009/warning"] = ProtoExpert.new("rds.rule.hdr_009", "Flags that are not used over TCP", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-010/warning"] = ProtoExpert.new("rds.rule.hdr_010", "A data message has source port 0", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-011/warning"] = ProtoExpert.new("rds.rule.hdr_011", "A message other than a probe has source port 1", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-HDR-012/warning"] = ProtoExpert.new("rds.rule.hdr_012", "A ping or pong carries payload", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-001/error"] = ProtoExpert.new("rds.rule.ext_001", "Extension headers cannot be parsed", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-EXT-002/warning"] = ProtoExpert.new("rds.rule.ext_002", "Bytes after the last extension header are not zero", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-003/warning"] = ProtoExpert.new("rds.rule.ext_003", "An extension header type occurs twice", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-004/note"] = ProtoExpert.new("rds.rule.ext_004", "An extension header that mainline kernels do not send", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-EXT-005/warning"] = ProtoExpert.new("rds.rule.ext_005", "NPATHS, GEN_NUM or SPORT_IDX outside of the handshake", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-006/warning"] = ProtoExpert.new("rds.rule.ext_006", "A handshake without a path count of 1 to 8", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-006/note"] = ProtoExpert.new("rds.rule.ext_006.note", "A handshake without a path count of 1 to 8", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-EXT-008/warning"] = ProtoExpert.new("rds.rule.ext_008", "Flag 0x20 and RDMA_BYTES do not go together", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-009/warning"] = ProtoExpert.new("rds.rule.ext_009", "RDMA_BYTES is malformed or stands alone", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-010/warning"] = ProtoExpert.new("rds.rule.ext_010", "RDMA extension headers over TCP", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-EXT-011/warning"] = ProtoExpert.new("rds.rule.ext_011", "RDMA and RDMA_DEST in one message", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-SEQ-001/warning"] = ProtoExpert.new("rds.rule.seq_001", "A data message, ping or pong has sequence 0", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-SEQ-002/error"] = ProtoExpert.new("rds.rule.seq_002", "A new message does not have a higher number than those before it", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-SEQ-003/note"] = ProtoExpert.new("rds.rule.seq_003", "Sequence numbers are left out", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-SEQ-004/warning"] = ProtoExpert.new("rds.rule.seq_004", "A congestion bitmap or ack-only frame has a sequence number", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-RTX-003/warning"] = ProtoExpert.new("rds.rule.rtx_003", "A retransmitted message stands behind new ones, or out of order", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-RTX-004/warning"] = ProtoExpert.new("rds.rule.rtx_004", "A retransmitted message does not ask for an acknowledgement", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-RTX-005/warning"] = ProtoExpert.new("rds.rule.rtx_005", "A retransmitted message announces RDMA work", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-ACK-001/warning"] = ProtoExpert.new("rds.rule.ack_001", "h_ack went back", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-ACK-003/warning"] = ProtoExpert.new("rds.rule.ack_003", "An ack-only frame has flags or extension headers", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-CNG-001/error"] = ProtoExpert.new("rds.rule.cng_001", "A congestion bitmap is not 8192 bytes long", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CNG-002/error"] = ProtoExpert.new("rds.rule.cng_002", "A congestion bitmap has other flags beside its own", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CNG-003/warning"] = ProtoExpert.new("rds.rule.cng_003", "A congestion bitmap has ports or extension headers", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-CNG-006/warning"] = ProtoExpert.new("rds.rule.cng_006", "A congestion bitmap marks port 0 or 1", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-CMR-001/warning"] = ProtoExpert.new("rds.rule.cmr_001", "A connection request goes to the wrong service for its addresses", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-CMR-002/warning"] = ProtoExpert.new("rds.rule.cmr_002", "The IP header of the request has the wrong version", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-CMR-003/error"] = ProtoExpert.new("rds.rule.cmr_003", "The private data of RDS are missing or without a version", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CMR-004/error"] = ProtoExpert.new("rds.rule.cmr_004", "The proposed protocol version is not understood", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CMR-005/error"] = ProtoExpert.new("rds.rule.cmr_005", "The reply names a version that the request did not offer", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CMR-006/error"] = ProtoExpert.new("rds.rule.cmr_006", "Addresses of the connection set-up contradict each other", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CMR-007/error"] = ProtoExpert.new("rds.rule.cmr_007", "Request and reply name different types of service", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-CMR-008/note"] = ProtoExpert.new("rds.rule.cmr_008", "Reserved bytes of the private data are set", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-CMR-009/note"] = ProtoExpert.new("rds.rule.cmr_009", "The private data carry an acknowledgement or credits", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-CMR-010/note"] = ProtoExpert.new("rds.rule.cmr_010", "Connection parameters differ from the kernel's", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-CMR-011/note"] = ProtoExpert.new("rds.rule.cmr_011", "A connection request was rejected", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-FRG-001/error"] = ProtoExpert.new("rds.rule.frg_001", "A frame was sent with immediate data or with invalidate", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-FRG-002/error"] = ProtoExpert.new("rds.rule.frg_002", "A frame holds more data than a fragment", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-FRG-003/error"] = ProtoExpert.new("rds.rule.frg_003", "A fragment is shorter or longer than it has to be", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-FRG-004/error"] = ProtoExpert.new("rds.rule.frg_004", "A fragment does not belong to the message under way", expert.group.PROTOCOL, expert.severity.ERROR),
   ["RDS-FRG-005/warning"] = ProtoExpert.new("rds.rule.frg_005", "A continuation's header differs from the first fragment's", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-CRD-003/note"] = ProtoExpert.new("rds.rule.crd_003", "Credits are granted on fragment after fragment", expert.group.PROTOCOL, expert.severity.NOTE),
   ["RDS-RDM-002/warning"] = ProtoExpert.new("rds.rule.rdm_002", "RDMA_BYTES is not the length of the operation", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-RDM-003/warning"] = ProtoExpert.new("rds.rule.rdm_003", "RDMA_BYTES names the wrong direction", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-RDM-005/warning"] = ProtoExpert.new("rds.rule.rdm_005", "An RDMA operation is longer than 1 MiB", expert.group.PROTOCOL, expert.severity.WARN),
   ["RDS-RDM-006/note"] = ProtoExpert.new("rds.rule.rdm_006", "The offset of offered memory is not within a page", expert.group.PROTOCOL, expert.severity.NOTE),
}

local all_experts = {}
for _, item in pairs(experts) do
   table.insert(all_experts, item)
end
rds.experts = all_experts

rds.prefs.tcp_ports = Pref.range("TCP ports", "16385", "TCP ports that carry RDS", 65535)
rds.prefs.settle = Pref.bool("Settle at the end of the file", false, "For a second pass: wait for frames that stand late, and show messages behind holes at the end of the file; not for live captures")
rds.prefs.check_hdr = Pref.bool("Check: Message header", true, "Show what breaks rules RDS-HDR-*")
rds.prefs.check_ext = Pref.bool("Check: Extension headers", true, "Show what breaks rules RDS-EXT-*")
rds.prefs.check_seq = Pref.bool("Check: Sequence numbers", true, "Show what breaks rules RDS-SEQ-*")
rds.prefs.check_rtx = Pref.bool("Check: Retransmission", true, "Show what breaks rules RDS-RTX-*")
rds.prefs.check_ack = Pref.bool("Check: Acknowledgement (InfiniBand)", true, "Show what breaks rules RDS-ACK-*")
rds.prefs.check_cng = Pref.bool("Check: Congestion bitmaps", true, "Show what breaks rules RDS-CNG-*")
rds.prefs.check_cmr = Pref.bool("Check: Connection set-up by RDMA-CM", true, "Show what breaks rules RDS-CMR-*")
rds.prefs.check_frg = Pref.bool("Check: Fragments (InfiniBand)", true, "Show what breaks rules RDS-FRG-*")
rds.prefs.check_crd = Pref.bool("Check: Credit flow control (InfiniBand)", true, "Show what breaks rules RDS-CRD-*")
rds.prefs.check_rdm = Pref.bool("Check: RDMA operations", true, "Show what breaks rules RDS-RDM-*")

-- Bytes and numbers. Offsets into Lua strings count from 1, offsets into the wire from 0.
-- Numbers of 64 bits are kept as floats, which are exact up to 2^53; the tree shows them from the packet itself.

local byte, sub, rep, find, format = string.byte, string.sub, string.rep, string.find, string.format
local floor, huge, min, max = math.floor, math.huge, math.min, math.max
local insert, remove, concat = table.insert, table.remove, table.concat
local unpack = table.unpack
-- Methods of Wireshark's objects, looked up once: asked of an object they cost as much again as what they do.
local captured_len, reported_len, raw_bytes = Tvb.len, Tvb.reported_len, Tvb.raw
local call_dissector, try_table, referenced = Dissector.call, DissectorTable.try, TreeItem.referenced
-- So are the functions behind what a frame tells of itself, from its `pinfo`: once the first frame is asked for its number.
local is_visited, time_of, source_of, destination_of, columns_of, text_of_address
local number_of

function number_of(pinfo)
   local function getter(name)
      local meta = getmetatable(pinfo)
      local getters = type(meta) == "table" and meta.__getters
      return getters and getters[name] or function(object)
         return object[name]
      end
   end
   number_of, is_visited, time_of = getter("number"), getter("visited"), getter("abs_ts")
   source_of, destination_of, columns_of = getter("net_src"), getter("net_dst"), getter("cols")
   local address = getmetatable(pinfo.net_src)
   text_of_address = type(address) == "table" and address.__tostring or tostring
   return number_of(pinfo)
end

-- Headers are read from a frame's first bytes, and payload, which may be kept, is copied once.
local HEAD_BYTES = 128

local function first_bytes(tvb)
   return raw_bytes(tvb, 0, min(captured_len(tvb), HEAD_BYTES))
end

-- What was captured between two offsets.
local function bytes_between(tvb, start, stop)
   local size = min(captured_len(tvb), stop) - start
   return size > 0 and raw_bytes(tvb, start, size) or ""
end

local TWO31, TWO32 = 2147483648.0, 4294967296.0
local ZERO4, ZERO8 = rep("\0", 4), rep("\0", 8)
local NO_EXTENSIONS = rep("\0", 16)

local function u16(s, i)
   local a, b = byte(s, i, i + 1)
   return a * 256 + b
end

local function u24(s, i)
   local a, b, c = byte(s, i, i + 2)
   return (a * 256 + b) * 256 + c
end

local function u32(s, i)
   local a, b, c, d = byte(s, i, i + 3)
   return ((a * 256 + b) * 256 + c) * 256 + d
end

local function u64(s, i)
   return u32(s, i) * TWO32 + u32(s, i + 4)
end

-- Whether bit number `bit` (0: the least significant) of `value` is set.
local function has(value, mask)
   return value % (2 * mask) >= mask
end

-- How far b lies ahead of a among numbers that wrap, the short way round.
local function ahead(a, b, modulus)
   local distance = (b - a) % modulus
   if distance >= modulus / 2 then
      return distance - modulus
   end
   return distance
end

local function whole(number)
   return format("%.0f", number)
end

local function plural(count, noun)
   return format(count == 1 and "%.0f %s" or "%.0f %ss", count, noun)
end

local checksum_status
do
   -- Twelve words of 16 bits, added up.
   local function words_sum(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x)
      return (a + c + e + g + i + k + m + o + q + s + u + w) * 256 + b + d + f + h + j + l + n + p + r + t + v + x
   end

   -- The Internet checksum: "absent", "good" or "bad" (protocol.md 1.1). `raw` has the 48 bytes of a header.
   function checksum_status(raw)
      if u16(raw, 31) == 0 then
         return "absent"
      end
      local total = words_sum(byte(raw, 1, 24)) + words_sum(byte(raw, 25, 48))
      total = total % 65536 + floor(total / 65536)
      total = total % 65536 + floor(total / 65536)
      return total == 65535 and "good" or "bad"
   end
end

-- An address of 4 or 16 bytes as text: IPv4 where it is mapped.
local MAPPED = rep("\0", 10) .. "\255\255"

local function address_text(raw)
   if #raw == 4 then
      return format("%d.%d.%d.%d", byte(raw, 1, 4))
   end
   if sub(raw, 1, 12) == MAPPED then
      return format("%d.%d.%d.%d", byte(raw, 13, 16))
   end
   local groups = {}
   for index = 1, 8 do
      groups[index] = u16(raw, 2 * index - 1)
   end
   -- The longest run of zeros, of two at least, becomes "::".
   local best, length, run = 0, 1, 0
   for index = 1, 8 do
      run = groups[index] == 0 and run + 1 or 0
      if run > length then
         best, length = index - run + 1, run
      end
   end
   local text = {}
   for index = 1, 8 do
      groups[index] = format("%x", groups[index])
   end
   if best == 0 then
      return concat(groups, ":")
   end
   text[1] = concat(groups, ":", 1, best - 1)
   text[2] = concat(groups, ":", best + length, 8)
   return concat(text, "::")
end

-- The bytes of an address that was made text: such strings sort as addresses do.
local function address_bytes(text)
   local lid = text:match("^lid:(%d+)$")
   if lid then
      return rep("\255", 14) .. string.char(floor(lid / 256), lid % 256)
   elseif find(text, ".", 1, true) then
      local prefix = byte(text, 1) == 58 and rep("\0", 12) or MAPPED -- a colon: an old form of IPv6
      return prefix .. string.char(text:match("(%d+)%.(%d+)%.(%d+)%.(%d+)$"))
   end
   local sides = { "", "" }
   for index, side in ipairs({ text:match("^(.-)::(.*)$") }) do
      sides[index] = side
   end
   if not find(text, "::", 1, true) then
      sides[1] = text
   end
   for index, side in ipairs(sides) do
      sides[index] = side:gsub("(%x+):?", function(group)
         local number = tonumber(group, 16)
         return string.char(floor(number / 256), number % 256)
      end)
   end
   return sides[1] .. rep("\0", 16 - #sides[1] - #sides[2]) .. sides[2]
end

-- Addresses of IP as text, by their bytes.
local host_of
do
   local HOSTS_LIMIT = 65536
   local host_texts, host_count = {}, 0

   function host_of(raw)
      local text = host_texts[raw]
      if not text then
         if host_count >= HOSTS_LIMIT then
            host_texts, host_count = {}, 0
         end
         text = address_text(raw)
         host_texts[raw], host_count = text, host_count + 1
      end
      return text
   end
end

-- What a filter calls an address that Wireshark shows; IPv4-mapped ones in dotted form.
local function host_text(address)
   local text = text_of_address(address)
   if byte(text, 1) == 58 then -- a colon
      return text:match("^::ffff:(%d+%.%d+%.%d+%.%d+)$") or text
   end
   return text
end

-- Wireshark, and the other dissectors that it has.

-- Whether it is of this version or later.
local function is_wireshark(wanted_major, wanted_minor)
   local major, minor = get_version():match("^(%d+)%.(%d+)")
   major, minor = tonumber(major) or 0, tonumber(minor) or 0
   return major > wanted_major or major == wanted_major and minor >= wanted_minor
end

-- Another dissector gave up. On what, it has shown already: that is no error of this script. Others are.
-- (The text behind the name is garbage in 4.4 where a dissector has a bug.)
local function gave_up(problem)
   if not find(tostring(problem), "Dissector%w*_%w+: ") then
      error(problem, 0)
   end
end

-- Let another dissector do its work, or give up.
local function hand_over(call, ...)
   local fine, problem = pcall(call, ...)
   if not fine then
      gave_up(problem)
   end
end

-- The message header (protocol.md 1) and its extension headers (2).

local HEADER_BYTES = 48
local MAX_MESSAGE_BYTES = 1048576
local BITMAP_BYTES = 8192
local PROBE_PORT = 1
local CONG_BITMAP, ACK_REQUIRED, RETRANSMITTED, EXTHDR_EXTENSION = 0x01, 0x02, 0x04, 0x20

-- Flags that a kernel sends over TCP, and bits that any kernel knows.
local TCP_FLAGS = { [0] = true, [CONG_BITMAP] = true, [RETRANSMITTED] = true }

local function is_heartbeat(flags)
   return has(flags, 0x08) or has(flags, 0x10)
end

-- The kind of a message; the first test that holds decides (protocol.md 1.3).
local function kind_of(tcp, length, sport, dport, flags)
   local no_ports = sport == 0 and dport == 0
   if no_ports and flags >= 8 and is_heartbeat(flags) then
      return "heartbeat"
   elseif no_ports and not tcp and length == 0 then
      return "ack"
   elseif flags == CONG_BITMAP then
      return "congestion"
   elseif dport == 0 and sport ~= 0 then
      return tcp and sport == PROBE_PORT and "probe" or "ping"
   elseif sport == 0 and dport ~= 0 then
      return tcp and dport == PROBE_PORT and "probe-reply" or "pong"
   end
   return "data"
end

-- Extension headers in their order, each {type, offset in the field, name, size}; and what is wrong, in words.
local parse_extensions
do
   local TYPE_LIMIT = 16
   local parsed_extensions = {}
   local parsed_count = 0
   local PARSED_LIMIT = 1024
   local NONE = { items = {}, used = 1 }

   function parse_extensions(data)
      if data == NO_EXTENSIONS then
         return NONE
      end
      local known = parsed_extensions[data]
      if known then
         return known
      end
      local result = { items = {}, used = 16 }
      local at = 0
      while at < 16 do
         local kind = byte(data, at + 1)
         if kind == 0 then
            result.used = at + 1
            break
         elseif kind >= TYPE_LIMIT then
            result.used = at
            result.problem = format("type %d at byte %d is out of range", kind, at)
            break
         end
         local extension = EXTENSIONS[kind]
         if not extension then
            insert(result.items, { type = kind, at = at })
            at = at + 1
         elseif at + 1 + extension.size > 16 then
            result.used = at
            result.problem = format("%s at byte %d does not fit", extension.name, at)
            break
         else
            local raw = sub(data, at + 2, at + 1 + extension.size)
            insert(result.items, { type = kind, at = at, extension = extension, raw = raw })
            at = at + 1 + extension.size
         end
      end
      if parsed_count >= PARSED_LIMIT then
         parsed_extensions, parsed_count = {}, 0
      end
      parsed_extensions[data] = result
      parsed_count = parsed_count + 1
      return result
   end
end

-- The first extension header of a type, nil where there is none.
local function extension_of(parsed, kind)
   for _, item in ipairs(parsed.items) do
      if item.type == kind and item.raw then
         return item.raw
      end
   end
   return nil
end

-- How much in a header no kernel sends over TCP; 0 for every one that it may send. `i` is where it begins in `s`.
local function oddities(s, i)
   local flags = byte(s, i + 24)
   local congestion = flags == CONG_BITMAP
   local count = 0
   local function odd(test)
      if test then
         count = count + 1
      end
   end
   odd(sub(s, i + 8, i + 15) ~= ZERO8)
   odd(byte(s, i + 25) ~= 0)
   odd(sub(s, i + 26, i + 29) ~= ZERO4)
   odd(sub(s, i + 30, i + 31) ~= "\0\0")
   odd(not TCP_FLAGS[flags])
   odd(u32(s, i + 16) > MAX_MESSAGE_BYTES)
   odd((sub(s, i, i + 7) == ZERO8) ~= congestion)
   odd((sub(s, i + 20, i + 23) == ZERO4) ~= congestion)
   odd(parse_extensions(sub(s, i + 32, i + 47)).problem ~= nil)
   return count
end

-- The ports that a congestion bitmap of 8192 bytes marks, ascending (protocol.md 3.1).
local function congested_ports(bitmap)
   local ports = {}
   local at = find(bitmap, "[^\0]")
   while at do
      local bits = byte(bitmap, at)
      for bit = 0, 7 do
         if has(bits, 2 ^ bit) then
            insert(ports, (at - 1) * 8 + bit)
         end
      end
      at = find(bitmap, "[^\0]", at + 1)
   end
   return ports
end

-- What is known of the capture, filled while frames come by for the first time (`pinfo.visited` is false).

-- Most of it is kept, and Lua's collector looks through all of it each time. So it is to wait: once RDS was found, until memory
-- has grown by so much, and from then on until it has grown fourfold since the collector last looked, instead of twofold.
local ROOM_KILOBYTES = 524288
pcall(collectgarbage, "setpause", 400)

-- Frame number -> the frame: `number`, `time`, and lists of what is shown in it: `messages`, `parts`, `acks`, `cm`,
-- `operations`.
local shown
local at_end -- All frames were seen: what is still open is shown where it belongs.
local visited -- whether the frame that is dissected was before
local part_unwanted -- whether nobody looked at the last part of a message that was new
local streams, message_count
-- Address pair -> what its connections have in common.
local pairs_of_addresses

local function start_capture()
   shown, streams, message_count, pairs_of_addresses, at_end, part_unwanted = {}, {}, 0, {}, false, false
end

-- The frame that is dissected, as long as nothing is known of it.
local function now_of(number, pinfo)
   return { number = number, time = time_of(pinfo), messages = nil, parts = nil }
end

-- The list `kind` of what a frame shows.
local function shows(frame, kind)
   local known = shown[frame.number]
   if known and not known.part then
      frame = known
   else
      frame.parts = frame.parts or known and known.parts
      shown[frame.number] = frame
   end
   local list = frame[kind]
   if not list then
      list = {}
      frame[kind] = list
   end
   return list
end

-- A stream: one TCP connection, or the two queue pairs of an InfiniBand connection. Ends have `host` and `port`.
local function add_stream(transport, a, b, from_start)
   local first, second = a.host, b.host
   if second < first then
      first, second = second, first
   end
   if not streams[1] then
      pcall(collectgarbage, "step", -ROOM_KILOBYTES) -- less than a step: the next one comes so much later
   end
   local name = first .. " - " .. second
   local pair = pairs_of_addresses[name]
   if not pair then
      pair = { name = name, streams = {}, announced = {} }
      pairs_of_addresses[name] = pair
   end
   local stream = { number = #streams, transport = transport, a = a, b = b, pair = pair, from_start = from_start }
   stream.tcp = transport == "tcp"
   stream.lanes = {}
   for direction = 0, 1 do
      -- What is known of one direction: its messages, and what the next one has to go on from.
      local lane = { stream = stream, direction = direction, messages = {}, count = 0, unacked = 1, acked = 0 }
      lane.pings, lane.ack_positions, lane.ack_frames = {}, {}, {}
      lane.part = { stream = stream, direction = direction }
      lane.parts = { lane.part }
      lane.part_frame = { parts = lane.parts, part = lane.part }
      stream.lanes[direction] = lane
   end
   insert(streams, stream)
   insert(pair.streams, stream)
   return stream
end

-- Something to be said of a stream, but of no message. The list may be one that many frames share.
local function show_part_in(frame, part)
   local parts = { unpack(shows(frame, "parts")) }
   insert(parts, part)
   shown[frame.number].parts = parts
end

-- A stream begins or ends in this frame. Returns what is told.
local function tell(stream, direction, event, now)
   local part = { stream = stream, direction = direction, event = event }
   show_part_in(now, part)
   return part
end

-- Part of a message, and no more to say, in this frame. Most frames are such: what is shown of them, they share.
local function tell_part(lane, now)
   if not now.parts then
      now.parts = lane.parts
      local number = now.number
      shown[number] = shown[number] or lane.part_frame
   end
end

-- Source and destination of what travels in a direction of a stream.
local function ends_of(stream, direction)
   if direction == 0 then
      return stream.a, stream.b
   end
   return stream.b, stream.a
end

-- A message keeps little: its lane, the 48 bytes of its header in `raw`, the `frame` that completed it, `position`,
-- `number`, and what is not as usual. All else comes from these when it is asked for.
local IS_NUMBERED = { data = true, ping = true, pong = true, probe = true, ["probe-reply"] = true }
local usual = { complete = true, fragments = 1 }
local from_bytes = {}
local MESSAGE = {
   __index = function(message, name)
      local get = from_bytes[name]
      if get then
         return get(message)
      end
      return usual[name]
   end,
}

function from_bytes.stream(message)
   return message.lane.stream
end

function from_bytes.direction(message)
   return message.lane.direction
end

function from_bytes.tcp(message)
   return message.lane.stream.tcp
end

function from_bytes.first(message)
   return message.frame
end

function from_bytes.sequence(message)
   return u64(message.raw, 1)
end

function from_bytes.ack(message)
   return u64(message.raw, 9)
end

function from_bytes.length(message)
   return u32(message.raw, 17)
end

from_bytes.seen = from_bytes.length

-- Over RoCE most parts of a payload are kept as the frames that brought them, from IPv4 on to ICRC: these are cut out of them
-- here, once somebody asks. A SEND begins with a header of RDS.
local FRAMED_AT, FRAMED_BEHIND, FRAMING = 40, 4, 44
local function cut_frames(parts, count)
   for index = 1, count do
      local frame = parts[index]
      if frame ~= "" then
         local begins = byte(frame, 29) == 0
         parts[index] = sub(frame, FRAMED_AT + (begins and HEADER_BYTES or 0) + 1, -FRAMED_BEHIND - 1)
      end
   end
end

-- The payload of a message in parts, nil where it has none.
local function parts_of(message)
   local parts = message.parts
   if message.framed then
      cut_frames(parts, #parts)
      message.framed = nil
   end
   return parts
end

function from_bytes.payload(message)
   local parts = parts_of(message)
   return parts and concat(parts)
end

function from_bytes.sport(message)
   return u16(message.raw, 21)
end

function from_bytes.dport(message)
   return u16(message.raw, 23)
end

function from_bytes.flags(message)
   return byte(message.raw, 25)
end

function from_bytes.finish(message)
   return message.position + HEADER_BYTES + u32(message.raw, 17)
end

-- A message is asked for its kind some ten times in a row: its lane keeps the last answer.
function from_bytes.kind(message)
   local lane = message.lane
   if lane.asked ~= message then
      local raw = message.raw
      lane.asked = message
      lane.answer = kind_of(lane.stream.tcp, u32(raw, 17), u16(raw, 21), u16(raw, 23), byte(raw, 25))
   end
   return lane.answer
end

-- Over InfiniBand all frames of a message have one: what is not good is said.
function from_bytes.status(message)
   return message.lane.stream.tcp and checksum_status(message.raw) or "good"
end

-- Whether its sequence is that of a message of its kind.
function from_bytes.numbered(message)
   return IS_NUMBERED[message.kind] and not has(byte(message.raw, 25), CONG_BITMAP) or nil
end

-- Whether there is nothing to say about a message but its ports, number and length.
function from_bytes.regular(message)
   local raw, flags = message.raw, byte(message.raw, 25)
   return (flags == 0 or flags == ACK_REQUIRED)
      and message.kind == "data"
      and message.complete
      and not message.inferred
      and not message.late
      and byte(raw, 26) == 0
      and sub(raw, 33, 48) == NO_EXTENSIONS
      and message.status ~= "bad"
end

local analyse -- Compares a message with those before it; in 40_analysis.lua.

-- Enter a message into the frame that shows it.
local function enter(message, lane, now)
   message_count = message_count + 1
   message.number = message_count
   lane.count = lane.count + 1
   lane.messages[lane.count] = message
   local list = now.messages or shows(now, "messages")
   list[#list + 1] = message
end

-- Enter a message that is complete, or known not to become so. `now` is the frame that tells it.
local function add_message(message, now)
   if not at_end and message.frame.number ~= now.number then
      message.late = true
   end
   enter(message, message.lane, at_end and message.frame or now)
   analyse(message)
end

-- RDS over TCP. What it gives to the rest, and what it takes from 40_analysis.lua:
-- whether an ordinary message is just what was expected; and to be told what a peer has received.

local start_tcp, feed_tcp, feed_next, finish_tcp, read_segment
local connection_count
local is_next, acknowledged

do
-- Find message boundaries again in a TCP stream whose framing was lost, or was never seen. One plausible header proves
-- nothing: a chain of headers does, each lying where the length of the one before says, with sequences that go on.

local FILLER, look
do
   local EVIDENCE = 3 -- points that a chain needs
   local SEQUENCE_STEP = 65536
   local SLACK = 16
   local MAX_CANDIDATES = 8192
   FILLER = "\255" -- stands for bytes that the capture lacks; as flags, it makes no plausible header

   local function plausible(data, at)
      if byte(data, at) ~= 0 or byte(data, at + 16) ~= 0 or byte(data, at + 17) > 16 or byte(data, at + 25) ~= 0 then
         return false
      end
      return oddities(data, at) == 0
   end

   -- All places in `data` at which 48 bytes could be a header, ascending; `origin` is the stream offset of its first byte.
   local function candidates_in(data, origin)
      local found = {}
      local last = #data - HEADER_BYTES + 1
      local at = find(data, ZERO8, 9, true)
      while at do
         local begin = at - 8
         if begin > last or #found >= MAX_CANDIDATES then
            break
         end
         if plausible(data, begin) then
            insert(found, {
               position = origin + begin - 1,
               sequence = u64(data, begin),
               flags = byte(data, begin + 24),
               length = u32(data, begin + 16),
               chain = 1,
            })
         end
         at = find(data, ZERO8, at + 1, true)
      end
      return found
   end

   -- Whether two headers can follow each other on one connection.
   local function goes_on(header, after)
      if header.flags == CONG_BITMAP or after.flags == CONG_BITMAP then
         return true
      elseif header.flags == RETRANSMITTED or after.flags == RETRANSMITTED then
         return true
      end
      local step = after.sequence - header.sequence
      return step > 0 and step <= SEQUENCE_STEP
   end

   -- Search stream bytes that begin at `origin`. `segments` tells where segments start and end, and what is missing.
   -- Returns the boundary, or nil and the offset from which on bytes may still belong to a chain.
   function look(search, data, origin, segments, final)
      local limit = origin + #data
      local candidates = candidates_in(data, origin)
      local by_position = {}
      for _, item in ipairs(candidates) do
         by_position[item.position] = item
      end
      for index = #candidates, 1, -1 do
         local item = candidates[index]
         item.last_end = item.position + HEADER_BYTES + item.length
         local after = by_position[item.last_end]
         if after and goes_on(item, after) then
            item.chain = item.chain + after.chain
            item.last_end, item.open, item.cut = after.last_end, after.open, after.cut
         else
            item.open = item.last_end + HEADER_BYTES > limit
            item.cut = not item.open and segments.missing(item.last_end, item.last_end + HEADER_BYTES) > 0
         end
      end
      for _, item in ipairs(candidates) do
         local points = item.chain
         if segments.starts[item.position] then
            points = points + 1
         end
         if segments.ends[item.last_end] then
            points = points + 1
         end
         local step = item.sequence - search.last_sequence
         local room = floor((item.position - search.since) / HEADER_BYTES) + SLACK
         if search.last_sequence > 0 and step > 0 and step <= room then
            points = points + 1
         end
         local all_there_is = item.cut or (item.open and (final or item.chain > 1))
         if item.chain >= EVIDENCE or (all_there_is and points >= EVIDENCE) then
            return item.position
         end
      end
      local keep_from = max(origin, limit - HEADER_BYTES + 1)
      if not final then
         for _, item in ipairs(candidates) do
            if item.open then
               return nil, min(keep_from, item.position)
            end
         end
      end
      return nil, keep_from
   end
end

-- One direction of a TCP connection: segments in, contiguous stream bytes, and from them messages out, as a real
-- receiver would take them. Wireshark's own reassembly stops at the first hole of a capture; this one goes on behind
-- it where the length of a message, or a chain of headers, tells the next boundary.
-- Stream offsets count payload bytes from the first one. The first copy of a byte wins, as in Linux.

local new_half, offset_in, flush, settle, take, go_on
do
   local MAX_PENDING_BYTES = 4194304 -- that may wait behind a hole
   local MAX_PENDING_SEGMENTS = 4096
   local MAX_HOLD_FRAMES = 20000 -- of the capture that a hole may stay open
   local MAX_SEARCH_BYTES = 4194304
   local MAX_ODDITIES = 2 -- a header at a known boundary with more is none

   function new_half(connection, direction)
      return {
         connection = connection,
         lane = connection.stream.lanes[direction],
         direction = direction,
         base = nil, -- TCP sequence number of stream offset 0
         next = 0, -- everything before was delivered
         latest = nil, -- the frame with which it was
         acked = 0,
         boundary = 0, -- where the next header begins, or the search goes on
         last_sequence = 0,
         open = nil, -- the message under way: raw, position, stop, first; and what came of it: parts, seen, done
         pieces = {}, -- what was delivered and belongs to no message yet: start, size, data or nil, frame, done
         head = 1, -- the first of them
         tail = 0,
         pending = {}, -- what came ahead of a hole, ascending, without overlap
         pending_bytes = 0,
         -- In a second pass all can be told: segments that stand late in the capture are waited for.
         patient = rds.prefs.settle,
      }
   end

   -- Stream offset of a TCP sequence number.
   function offset_in(half, number)
      local distance = (number - half.base - half.next) % TWO32
      return half.next + (distance < TWO31 and distance or distance - TWO32)
   end

   -- Of segments that only went on with a message, numbers were noted: the frame of the last one is made once it is needed.
   local function catch_up(half)
      if half.late_number then
         half.latest = { number = half.late_number, time = half.late_time }
         half.open.done, half.late_number = half.latest, nil
      end
   end

   local function push(half, start, size, data, frame, done, hole)
      local last = half.pieces[half.tail] or half.open
      if last and last.done.number > done.number then
         done = last.done
      end
      half.tail = half.tail + 1
      half.pieces[half.tail] = { start = start, size = size, data = data, frame = frame, done = done, hole = hole }
   end

   -- Payload of the message under way. It stays in parts until somebody looks at it.
   local function extend(open, data, done)
      open.parts[#open.parts + 1] = data
      open.seen = open.seen + #data
      if done.number > open.done.number then
         open.done = done
      end
   end

   -- Take contiguous bytes; where `data` is shorter than `size` the frame was cut, or the bytes were not captured.
   local function deliver(half, start, size, data, frame, done, hole)
      local open = half.open
      local room = open and open.stop - start or 0
      half.next = start + size
      if not half.latest or done.number > half.latest.number then
         half.latest = done
      end
      if room > 0 then
         local most = min(room, size)
         extend(open, #data > most and sub(data, 1, most) or data, done)
         if size <= room then
            return
         end
         start, size, data = open.stop, size - room, sub(data, room + 1)
      end
      local captured = min(#data, size)
      if captured > 0 then
         push(half, start, captured, captured == #data and data or sub(data, 1, captured), frame, done)
      end
      if captured < size then
         push(half, start + captured, size - captured, nil, frame, done, hole)
      end
   end

   -- Index of the piece that holds a stream offset.
   local function piece_at(half, position)
      local low, high = half.head, half.tail
      while low < high do
         local middle = floor((low + high + 1) / 2)
         if half.pieces[middle].start <= position then
            low = middle
         else
            high = middle - 1
         end
      end
      return low
   end

   -- Bytes between two offsets, and how many of them are missing; with `fill`, missing ones are filled in.
   local function read(half, start, stop, fill)
      local parts, missing = {}, 0
      local index = piece_at(half, start)
      while start < stop do
         local piece = half.pieces[index]
         if not piece or index > half.tail then
            break
         end
         local upto = min(stop, piece.start + piece.size)
         if upto > start then
            if piece.data then
               insert(parts, sub(piece.data, start - piece.start + 1, upto - piece.start))
            else
               missing = missing + upto - start
               if fill then
                  insert(parts, rep(FILLER, upto - start))
               end
            end
            start = upto
         end
         index = index + 1
      end
      return concat(parts), missing
   end

   local function forget_before(half, position)
      local pieces = half.pieces
      while half.head <= half.tail do
         local piece = pieces[half.head]
         if piece.start + piece.size > position then
            return
         end
         pieces[half.head] = nil
         half.head = half.head + 1
      end
   end

   local function lose(half, position, search_from)
      half.search = { since = position, last_sequence = half.last_sequence }
      half.boundary = search_from
      half.inferred = false
   end

   local function make_message(half, raw, position, first_frame, done)
      local sequence = u64(raw, 1)
      if sequence > 0 then
         half.last_sequence = sequence
      end
      local message = setmetatable({ lane = half.lane, raw = raw, frame = done, position = position }, MESSAGE)
      if first_frame ~= done then
         message.first = first_frame
      end
      if half.inferred then
         message.inferred = true
         half.inferred = false
      end
      return message
   end

   -- The captured bytes between two offsets as parts, and how many they are.
   local function parts_between(half, start, upto)
      local parts, seen = {}, 0
      local index = piece_at(half, start)
      while start < upto do
         local piece = half.pieces[index]
         local from, size = piece.start, piece.size
         local data = piece.data
         if data then
            if from < start or from + size > upto then
               data = sub(data, start - from + 1, upto - from)
            end
            seen = seen + #data
            parts[#parts + 1] = data
         end
         start = from + size
         index = index + 1
      end
      return parts, seen
   end

   -- Enter a message. What follows it is next.
   local function emit(half, raw, position, stop, first_frame, done, parts, seen, now)
      local message = make_message(half, raw, position, first_frame, done)
      message.parts = parts
      if seen < stop - position - HEADER_BYTES then
         message.seen, message.complete = seen, false
      end
      add_message(message, now)
      half.boundary = min(stop, half.next)
      forget_before(half, half.boundary)
   end

   -- Read messages from the boundary on. Returns true where the framing was lost and a search was started.
   local function walk(half, now)
      while half.boundary + HEADER_BYTES <= half.next do
         local position = half.boundary
         local index = piece_at(half, position)
         local piece = half.pieces[index]
         local raw
         if piece.data and position + HEADER_BYTES <= piece.start + piece.size then
            raw = sub(piece.data, position - piece.start + 1, position - piece.start + HEADER_BYTES)
         else
            local missing
            raw, missing = read(half, position, position + HEADER_BYTES)
            if missing > 0 then
               local at = index
               while half.pieces[at].data do
                  at = at + 1
               end
               lose(half, position, half.pieces[at].start + half.pieces[at].size)
               return true
            end
         end
         local length = u32(raw, 17)
         local stop = position + HEADER_BYTES + length
         local regular = length <= MAX_MESSAGE_BYTES
            and sub(raw, 9, 16) == ZERO8
            and byte(raw, 26) == 0
            and sub(raw, 27, 32) == "\0\0\0\0\0\0"
         if not regular then
            if oddities(raw, 1) > MAX_ODDITIES then
               lose(half, position, position + 1)
               return true
            elseif length > MAX_MESSAGE_BYTES then
               -- Reported, but not trusted to find the next message.
               local behind = position + HEADER_BYTES
               local last = half.pieces[piece_at(half, behind - 1)]
               local message = make_message(half, raw, position, piece.frame, last.done)
               message.parts, message.seen, message.complete = {}, 0, false
               message.finish = behind
               add_message(message, now)
               lose(half, behind, behind)
               return true
            end
         end
         local parts, seen = parts_between(half, position + HEADER_BYTES, min(stop, half.next))
         if stop > half.next then
            local open = { raw = raw, position = position, stop = stop, first = piece.frame, parts = parts, seen = seen }
            open.done = half.pieces[half.tail].done
            half.open = open
            forget_before(half, half.next)
            return false
         end
         local done = half.pieces[piece_at(half, stop - 1)].done
         emit(half, raw, position, stop, piece.frame, done, parts, seen, now)
      end
      return false
   end

   -- What a search has to know of how the bytes came.
   local function segmentation(half)
      local starts, ends = {}, {}
      for index = half.head, half.tail do
         local piece = half.pieces[index]
         starts[piece.start], ends[piece.start + piece.size] = true, true
      end
      return {
         starts = starts,
         ends = ends,
         missing = function(start, stop)
            local _, missing = read(half, start, min(stop, half.next))
            return missing
         end,
      }
   end

   -- Where a search has to stop: before the first hole that no message can span. Returns that place and where it ends.
   local function span_limit(half)
      for index = piece_at(half, half.boundary), half.tail do
         local piece = half.pieces[index]
         if not piece.data and piece.size > MAX_MESSAGE_BYTES then
            return max(piece.start, half.boundary), piece.start + piece.size
         end
      end
      return half.next, nil
   end

   local function find_boundary(half, final)
      local segments = segmentation(half)
      while half.head <= half.tail and half.boundary < half.next do
         local limit, behind = span_limit(half)
         local data = read(half, half.boundary, limit, true)
         local found, keep_from = look(half.search, data, half.boundary, segments, final or behind ~= nil)
         if found then
            half.boundary = found
            half.search = nil
            half.inferred = true
            forget_before(half, found)
            return true
         end
         half.boundary = behind or keep_from
         if not behind then
            half.boundary = max(half.boundary, half.next - MAX_SEARCH_BYTES)
            forget_before(half, half.boundary)
            return false
         end
         forget_before(half, half.boundary)
      end
      return false
   end

   -- Take all messages that are there.
   local function read_messages(half, now, final)
      while true do
         if half.search and not find_boundary(half, final) then
            return
         end
         local open = half.open
         if open then
            if open.stop > half.next then
               return
            end
            half.open = nil
            emit(half, open.raw, open.position, open.stop, open.first, open.done, open.parts, open.seen, now)
         end
         if not walk(half, now) then
            return
         end
      end
   end

   -- Report the message that is under way as incomplete: `closing` ended it before its last byte was seen.
   function flush(half, closing, now)
      catch_up(half)
      local open = half.open
      if open then
         half.open = nil
         if open.first.number > closing.number then
            closing = open.first -- It was on its way when the other side ended the connection.
         end
         emit(half, open.raw, open.position, open.stop, open.first, closing, open.parts, open.seen, now)
      end
   end

   -- Keep what of a segment ahead of a hole is not pending yet.
   local function hold(half, start, size, data, frame)
      local pending = half.pending
      local at = #pending + 1
      while at > 1 and pending[at - 1].start > start do
         at = at - 1
      end
      if at > 1 and pending[at - 1].start + pending[at - 1].size > start then
         at = at - 1
      end
      local stop, from = start + size, start
      local function keep(begin, upto)
         local part = { start = begin, size = upto - begin, frame = frame }
         part.data = sub(data, begin - start + 1, upto - start)
         insert(pending, at, part)
         half.pending_bytes = half.pending_bytes + #part.data
         at = at + 1
      end
      while from < stop do
         local held = pending[at]
         if not held or held.start >= stop then
            keep(from, stop)
            return
         end
         if held.start > from then
            keep(from, held.start)
         end
         from = max(from, held.start + held.size)
         at = at + 1
      end
   end

   -- Deliver what the bytes of `now` have made contiguous.
   local function release(half, now)
      local pending = half.pending
      while pending[1] and pending[1].start <= half.next do
         local piece = remove(pending, 1)
         half.pending_bytes = half.pending_bytes - #piece.data
         local stop = piece.start + piece.size
         if stop > half.next then
            local skip = half.next - piece.start
            local data = skip > 0 and sub(piece.data, skip + 1) or piece.data
            local done = now.number > piece.frame.number and now or piece.frame
            deliver(half, half.next, stop - half.next, data, piece.frame, done)
         end
      end
   end

   -- Take the first hole as not captured, and deliver what waited behind it.
   local function give_up_hole(half)
      local first = half.pending[1]
      -- What waited was complete no earlier than what came before the hole.
      local done = first.frame
      if half.latest and half.latest.number > done.number then
         done = half.latest
      end
      deliver(half, half.next, first.start - half.next, "", first.frame, done, true)
      release(half, done)
   end

   -- Give up holes that can no longer fill, then read the messages. Without `acked`, what the peer has acknowledged is no
   -- reason where the capture is read twice.
   function settle(half, now, final, acked)
      catch_up(half)
      acked = acked or not half.patient and half.acked or -1
      while half.pending[1] do
         local first = half.pending[1]
         local too_much = half.pending_bytes > MAX_PENDING_BYTES or #half.pending > MAX_PENDING_SEGMENTS
         local old = first.frame.number < now.number - MAX_HOLD_FRAMES
         if not (acked >= first.start or too_much or old or final) then
            break
         end
         give_up_hole(half)
      end
      read_messages(half, now, final)
   end

   -- The most common case: the next segment goes on with a message, and does not end it. Returns whether it is so.
   function go_on(half, data, number, time)
      local open, stop = half.open, half.next + #data
      if not open or stop >= open.stop then
         return false
      end
      local parts = open.parts
      parts[#parts + 1] = data
      open.seen = open.seen + #data
      half.next, half.late_number, half.late_time = stop, number, time
      shown[number] = shown[number] or half.lane.part_frame
      return true
   end

   local ONLY_FLAG_BYTES = "\0\0\0\0\0\0\0" -- credit, padding and checksum

   -- The common case: a segment in order, with nothing waiting. Messages that lie whole in it are not copied.
   -- Returns how many bytes were taken.
   local function take_whole_messages(half, data, frame)
      local at, count, lane = 1, #data, half.lane
      while at + HEADER_BYTES - 1 <= count do
         local stop = at + HEADER_BYTES + u32(data, at + 16)
         if
            stop > count + 1
            or sub(data, at + 8, at + 15) ~= ZERO8
            or sub(data, at + 25, at + 31) ~= ONLY_FLAG_BYTES
         then
            break
         end
         local position = half.next + at - 1
         local raw = sub(data, at, at + HEADER_BYTES - 1)
         local message
         if is_next(lane, raw, position) then
            local sequence = lane.highest + 1
            half.last_sequence, half.inferred = sequence, false
            message = { lane = lane, raw = raw, frame = frame, position = position, at = at - 1, expected = sequence }
            lane.finish, lane.expected = half.next + stop - 1, sequence + 1
            lane.highest, lane.previous, lane.new = sequence, sequence, true
            enter(setmetatable(message, MESSAGE), lane, frame)
         else
            message = make_message(half, raw, position, frame, frame)
            message.at = at - 1
            if byte(raw, 25) == CONG_BITMAP then
               message.payload = sub(data, at + HEADER_BYTES, stop - 1)
            end
            add_message(message, frame)
         end
         at = stop
      end
      return at - 1
   end

   -- Take a segment's payload: `size` bytes on the wire, of which `data` was captured.
   function take(half, offset, size, data, frame)
      catch_up(half)
      local stop = offset + size
      if stop <= half.next then
         return -- seen before
      elseif offset > half.next then
         hold(half, offset, size, data, frame)
         settle(half, frame)
         return
      end
      half.latest = frame
      local skip = half.next - offset
      if skip == 0 and #data == size and half.boundary == offset and not half.search and not half.pending[1] then
         local taken = take_whole_messages(half, data, frame)
         half.next = offset + taken
         half.boundary = half.next
         if taken == size then
            return
         end
         skip = taken
      end
      deliver(half, half.next, size - skip, sub(data, skip + 1), frame, frame)
      release(half, frame)
      settle(half, frame)
   end
end

-- TCP connections that carry RDS: segments in, messages and acknowledgements out.

local connections -- both ports -> source -> destination -> the half that the sender fills
do
   local STRAY_BYTES = 8388608 -- nothing that a connection sends out of order, or repeats, lies further off
   local MAX_CONNECTIONS = 131072
   local IN_FLIGHT_FRAMES = 64 -- what was in flight to an end that has closed may still come for as long

   local closed -- halves whose connection was reset, oldest first: half, closing frame
   local last_number, last_time -- of the last frame with a segment
   local last_segment -- the same table for all: each is looked at once

   function start_tcp()
      last_segment = {}
      connections, connection_count = {}, 0
      closed, last_number = { first = 1, last = 0 }, nil
   end

   -- The half that a segment's sender fills, nil where its connection is not known.
   local function half_of(ports, src, dst)
      local from = connections[ports]
      local to = from and from[src]
      return to and to[dst]
   end

   local function enter_half(half, sport, dport, src, dst)
      local ports = sport * 65536 + dport
      local from = connections[ports] or {}
      local to = from[src] or {}
      connections[ports], from[src], to[dst] = from, to, half
      half.ports, half.src, half.dst = ports, src, dst
   end

   local function forget_half(half)
      local from = connections[half.ports]
      local to = from and from[half.src]
      half.gone, half.expected = true, nil
      if not to or to[half.dst] ~= half then
         return -- an end connected with itself: the other half has taken this one's place
      end
      to[half.dst] = nil
      if not next(to) then
         from[half.src] = nil
         if not next(from) then
            connections[half.ports] = nil
         end
      end
   end

   -- Enter a connection that `segment` belongs to; `backward` where its sender was dialled.
   local function open_connection(segment, now, backward, from_start)
      if connection_count >= MAX_CONNECTIONS then
         return nil
      end
      local source = { host = segment.src, port = segment.sport }
      local target = { host = segment.dst, port = segment.dport }
      local a, b = source, target
      if backward then
         a, b = target, source
      end
      local connection = { stream = add_stream("tcp", a, b, from_start), halves = {} }
      for direction = 0, 1 do
         connection.halves[direction] = new_half(connection, direction)
      end
      local own = backward and 1 or 0
      enter_half(connection.halves[own], segment.sport, segment.dport, segment.src, segment.dst)
      enter_half(connection.halves[1 - own], segment.dport, segment.sport, segment.dst, segment.src)
      connection_count = connection_count + 1
      connection.opening = tell(connection.stream, own, "opened", now)
      return connection.halves[own]
   end

   -- Report what is left of a connection that `now` shows to be over, and forget it.
   local function end_connection(half, now)
      for direction = 0, 1 do
         local other = half.connection.halves[direction]
         settle(other, now, false, other.acked)
         settle(other, now, true)
         flush(other, other.closing or now, now)
      end
      forget_half(half.connection.halves[0])
      forget_half(half.connection.halves[1])
      connection_count = connection_count - 1
   end

   local function opened_by_syn(half, segment, now)
      local first_payload = (segment.seq + 1) % TWO32
      if half then
         local known = half.base == nil or half.base == first_payload
         if not known or half.connection.over then
            end_connection(half, now)
            half = nil
         end
      end
      local connection = half and half.connection
      if connection and connection.halves[0].base == nil and connection.halves[1].base == nil then
         -- Only acknowledgements stood before it: it begins here.
         half.lane.stream.from_start = (half.direction == 1) == segment.ack_flag
         connection.opening.event = nil
         connection.opening = tell(half.lane.stream, half.direction, "opened", now)
      end
      half = half or open_connection(segment, now, segment.ack_flag, true)
      if half and half.base == nil then
         half.base = first_payload
         half.search = nil
      end
      return half
   end

   -- The stream was not seen from its start: its first payload has this number.
   local function begin(half, number)
      half.base = number
      half.search = { since = 0, last_sequence = 0 }
   end

   local function is_far(half, number)
      return half.base ~= nil and math.abs(offset_in(half, number) - half.next) > STRAY_BYTES
   end

   -- Whether a segment belongs to another connection whose SYN was not captured: the one that is known has ended, or the
   -- numbers of both directions have jumped, and a segment that came before waits where they have jumped to.
   local function is_another(half, segment)
      if segment.size == 0 or not is_far(half, segment.seq) then
         return false
      end
      local last = half.pending[#half.pending]
      return half.connection.over
         or is_far(half.connection.halves[1 - half.direction], segment.ack)
            and last ~= nil
            and math.abs(last.start - offset_in(half, segment.seq)) <= STRAY_BYTES
   end

   -- Begin another connection with a segment, and with what of it waits behind a hole of the one that is known.
   local function open_another(half, segment, now, backward)
      local base, offset, waiting = half.base, offset_in(half, segment.seq), {}
      for index = #half.pending, 1, -1 do
         local piece = half.pending[index]
         if math.abs(piece.start - offset) <= STRAY_BYTES then
            insert(waiting, 1, remove(half.pending, index))
            half.pending_bytes = half.pending_bytes - #piece.data
         end
      end
      local first = half.patient and waiting[1] and waiting[1].frame or now
      end_connection(half, first)
      half = open_connection(segment, first, backward, false)
      for _, piece in ipairs(half and waiting or {}) do
         local number = (base + piece.start) % TWO32
         if half.base == nil then
            begin(half, number)
         end
         take(half, offset_in(half, number), piece.size, piece.data, half.patient and piece.frame or now)
      end
      return half
   end

   local function close(half, segment, now)
      local connection = half.connection
      if half.ended or connection.reset then
         return
      end
      half.ended = true
      connection.reset = segment.rst
      connection.over = segment.rst or connection.halves[1 - half.direction].ended
      tell(connection.stream, half.direction, segment.rst and "RST" or "FIN", now)
      local behind = half.base and (segment.seq + segment.size - half.base - half.next) % TWO32 or 0
      for direction = 0, 1 do
         local other = connection.halves[direction]
         -- What lies before a FIN and was not seen may still come; so may what was in flight to an end that resets.
         if segment.rst or (other == half and behind == 0) then
            other.closing = other.closing or now
            if other == half and not other.pending[1] then
               flush(other, now, now)
            else
               closed.last = closed.last + 1
               closed[closed.last] = { half = other, frame = now }
            end
         end
      end
   end

   -- Report what a closed connection left incomplete, once nothing more can be in flight.
   local function flush_closed(now, all)
      local entry = closed[closed.first]
      while entry and (all or entry.frame.number < now.number - IN_FLIGHT_FRAMES) do
         closed[closed.first] = nil
         closed.first = closed.first + 1
         if not entry.half.pending[1] then
            flush(entry.half, entry.frame, now)
         end
         entry = closed[closed.first]
      end
   end

   -- What the peer had acknowledged in frames up to `number`: an acknowledgement may stand before what it is for.
   local function acknowledged_before(half, number)
      local positions, frames = half.lane.ack_positions, half.lane.ack_frames
      local index = #positions
      while index > 0 and frames[index] > number do
         index = index - 1
      end
      return positions[index] or -1
   end

   -- The capture has ended: give up all holes and searches, and report what is incomplete.
   function finish_tcp()
      if not last_number then
         return
      end
      local now = { number = last_number, time = last_time }
      flush_closed(now, true)
      local done = {}
      for _, from in pairs(connections) do
         for _, to in pairs(from) do
            for _, half in pairs(to) do
               done[half.connection.stream.number] = half.connection
            end
         end
      end
      for number = 0, #streams - 1 do
         local connection = done[number]
         for direction = 0, connection and 1 or -1 do
            local half = connection.halves[direction]
            settle(half, now, false, acknowledged_before(half, now.number - IN_FLIGHT_FRAMES))
            settle(half, now, true)
            flush(half, half.closing or now, now)
         end
      end
   end

   -- Whether a segment with the number `seq` acknowledges more than was acknowledged before: all before `number`.
   local function advances(half, seq, number)
      if number == half.last_ack then
         return false
      end
      local other = half.connection.halves[1 - half.direction]
      if other.base == nil then
         return false
      end
      half.last_ack = number
      local offset = offset_in(other, number)
      -- Where both numbers are far away, another connection may have begun.
      return offset > other.acked and (offset - other.acked <= STRAY_BYTES or not is_far(half, seq))
   end

   local function take_acknowledgement(half, number, now)
      local other = half.connection.halves[1 - half.direction]
      other.acked = offset_in(other, number)
      acknowledged(other.connection.stream, other.direction, other.acked, now)
      if other.pending[1] then
         settle(other, now)
      end
   end

   -- Where nothing waits, the next segment is known by its number.
   local function expect_next(half)
      local base = not (half.gone or half.pending[1]) and half.base
      half.expected = base and (base + half.next) % TWO32 or nil
   end

   -- Take a segment of a connection that carries RDS. `sure`: a message begins with the first byte of its payload.
   function feed_tcp(segment, now, rds_port, sure)
      segment.used = true
      last_number, last_time = now.number, now.time
      if closed[closed.first] then
         flush_closed(now)
      end
      local half = segment.half
      if segment.syn then
         half = opened_by_syn(half, segment, now)
      else
         local backward = rds_port(segment.sport) and not rds_port(segment.dport)
         if not half then
            half = open_connection(segment, now, backward, false)
         elseif is_another(half, segment) then
            half = open_another(half, segment, now, backward)
         end
      end
      if not half then
         return
      end
      if segment.size > 0 then
         local seq = segment.syn and (segment.seq + 1) % TWO32 or segment.seq
         if half.base == nil then
            if not sure then
               begin(half, seq)
            else
               half.base = seq
               -- The other direction's next message begins where this side awaits it.
               half.connection.halves[1 - half.direction].base = segment.ack
            end
         end
         local offset = offset_in(half, seq)
         take(half, offset, segment.size, segment.data, now)
         if half.open or half.search or half.pending[1] then
            tell_part(half.lane, now)
         end
      end
      if segment.ack_flag and advances(half, segment.seq, segment.ack) then
         take_acknowledgement(half, segment.ack, now)
      end
      if segment.fin or segment.rst then
         close(half, segment, now)
      end
      expect_next(half.connection.halves[0])
      expect_next(half.connection.halves[1])
   end

   -- Take a segment as most are: with no flag but ACK and PSH, the next in order, and nothing waits. Its payload lies in `tvb`
   -- from `at` to `stop`. Returns whether it was one.
   function feed_next(half, seq, ack, tvb, at, stop, number, pinfo)
      if seq ~= half.expected or closed[closed.first] then
         return false
      end
      local now
      last_number, last_time = number, time_of(pinfo)
      if stop > at then
         local size = stop - at
         local data = raw_bytes(tvb, at, size)
         if not go_on(half, data, number, last_time) then
            now = { number = number, time = last_time }
            take(half, half.next, size, data, now)
            if half.open or half.search then
               tell_part(half.lane, now)
            end
         end
         half.expected = (seq + size) % TWO32
      end
      if ack ~= half.last_ack and advances(half, seq, ack) then
         take_acknowledgement(half, ack, now or { number = number, time = last_time })
      end
      return true
   end

   -- Read a TCP segment that begins behind `at` bytes of `tvb`, and ends on the wire where `stop` bytes have passed. `head`
   -- has the first bytes of `tvb`.
   function read_segment(tvb, head, at, stop, src, dst)
      local segment = last_segment
      local sport, s, dport, d, q3, q2, q1, q0, a3, a2, a1, a0, header, bits = byte(head, at + 1, at + 14)
      header = at + floor(header / 16) * 4
      if header < at + 20 or header > stop then
         return nil
      end
      sport, dport = sport * 256 + s, dport * 256 + d
      segment.src, segment.dst, segment.sport, segment.dport = src, dst, sport, dport
      segment.seq, segment.ack = ((q3 * 256 + q2) * 256 + q1) * 256 + q0, ((a3 * 256 + a2) * 256 + a1) * 256 + a0
      if bits ~= segment.bits then
         segment.bits = bits
         segment.fin, segment.syn, segment.rst = bits % 2 == 1, has(bits, 0x02), has(bits, 0x04)
         segment.ack_flag = has(bits, 0x10)
      end
      segment.size, segment.data = stop - header, bytes_between(tvb, header, stop)
      segment.half = half_of(sport * 65536 + dport, src, dst)
      segment.used = false
      return segment
   end
end

end

-- RDS over InfiniBand and RoCE. What it gives to the rest, and what it takes from 41_rules.lua.

local start_infiniband, finish_infiniband, feed_packet, feed_known, read_packet, whole_packet, start_cm
local orphans -- number of a frame -> it ends a SEND whose begin was not captured, and is not known to be RDS
local MAX_FRAGMENT_BYTES, FRAGMENT_BYTES, REQ, REJ, REP, key_of
-- Most packets are what is expected next: a shorter way for these. Opcode -> a function that takes such a packet, whole, and
-- returns whether it was one: of the flow, its number, what follows BTH or the whole of its frame from IPv4 on, which of these
-- it is, whether it is solicited, number of the frame, pinfo.
local EXPECTED = {}
local check_fragment, check_cm

do
-- InfiniBand requests of one direction in the order of their packet sequence numbers (PSN). An RDMA READ takes as many
-- numbers as its response has packets. What came before is dropped, what is early waits until the hole before it fills:
-- or until the peer acknowledges what lies behind the hole, so that the capture, not the wire, has lost it.

local PSN_MODULUS, MAX_WAITING_PACKETS, MTUS, SEND, WRITE, READ, ATOMIC, RESPONSE, OPCODES
local new_order, read_span, put_in_order, keep_packet, packets_acknowledged, give_up_packets
local accept_packet, lose_packets, restart_flow -- What follows in order, in 2_messages.lua and 4_flows.lua.
do
   PSN_MODULUS = 16777216
   MAX_WAITING_PACKETS = 1024
   local MAX_WAITING_SECONDS = 10
   local FAR_AHEAD_PACKETS = 4194304 -- a jump ahead by more is another use of the queue pair's number
   local FAR_BEHIND_PACKETS = 65536
   local FAR_CHAIN = 3 -- consecutive packets that a far jump needs
   MTUS = { 256, 512, 1024, 2048, 4096 }
   local DEFAULT_MTU = 1024

   -- Opcode -> what a packet of a reliable connection is part of, and the bytes of transport headers behind BTH.
   SEND, WRITE, READ, ATOMIC, RESPONSE = 1, 2, 3, 4, 5
   OPCODES = {}

   local function opcode(number, part, header, starts, ends)
      OPCODES[number] = { part = part, header = header, starts = starts, ends = ends }
   end

   opcode(0x00, SEND, 0, true, false) -- first
   opcode(0x01, SEND, 0, false, false) -- middle
   opcode(0x02, SEND, 0, false, true) -- last
   opcode(0x03, SEND, 4, false, true) -- last with immediate
   opcode(0x04, SEND, 0, true, true) -- only
   opcode(0x05, SEND, 4, true, true) -- only with immediate
   opcode(0x06, WRITE, 16, true, false)
   opcode(0x07, WRITE, 0, false, false)
   opcode(0x08, WRITE, 0, false, true)
   opcode(0x09, WRITE, 4, false, true)
   opcode(0x0a, WRITE, 16, true, true)
   opcode(0x0b, WRITE, 20, true, true)
   opcode(0x0c, READ, 16, true, true)
   opcode(0x0d, RESPONSE, 4)
   opcode(0x0e, RESPONSE, 0)
   opcode(0x0f, RESPONSE, 4)
   opcode(0x10, RESPONSE, 4)
   opcode(0x11, RESPONSE, 4)
   opcode(0x12, RESPONSE, 12)
   opcode(0x13, ATOMIC, 28, true, true) -- compare and swap
   opcode(0x14, ATOMIC, 28, true, true) -- fetch and add
   opcode(0x16, SEND, 4, false, true) -- last with invalidate
   opcode(0x17, SEND, 4, true, true) -- only with invalidate

   function new_order(expected)
      local order = { expected = expected, fresh = expected ~= nil, waiting = {}, count = 0, far = {} }
      -- In a second pass all can be told: frames that stand late in the capture are waited for.
      order.patient = rds.prefs.settle
      return order
   end

   -- Packet sequence numbers that a READ of `size` bytes takes.
   function read_span(order, size)
      return max(1, math.ceil(size / (order.mtu or DEFAULT_MTU)))
   end

   local function span_of(order, packet)
      if packet.what.part == READ and #packet.data >= 16 then
         return read_span(order, u32(packet.data, 13))
      end
      return 1
   end

   -- A packet that has to wait.
   function keep_packet(packet)
      local kept = { what = packet.what, frame = packet.frame, opcode = packet.opcode, solicited = packet.solicited }
      kept.psn, kept.data, kept.length = packet.psn, packet.data, packet.length
      return kept
   end

   -- Hand on what waited for the number that is expected now.
   local function accept_waiting(flow, order, now)
      while order.count > 0 do
         local position = order.expected
         local entry = order.waiting[position]
         if not entry then
            return
         end
         order.waiting[position] = nil
         order.count = order.count - 1
         accept_packet(flow, entry, position, now)
         order.expected = position + span_of(order, entry)
      end
   end

   local function accept(flow, packet, now)
      local order = flow.order
      local expected = order.expected
      accept_packet(flow, packet, expected, now)
      order.expected = expected + (packet.what.part == READ and span_of(order, packet) or 1)
      order.fresh, order.choices = false, nil
      if order.far[1] then
         order.far = {}
      end
      if order.count > 0 then
         accept_waiting(flow, order, now)
      end
   end

   local function first_waiting(order)
      local first = huge
      for position in pairs(order.waiting) do
         first = min(first, position)
      end
      return first
   end

   -- Take the hole before the first waiting packet as not captured, and go on behind it.
   function give_up_packets(flow, now)
      local order = flow.order
      local position = first_waiting(order)
      local entry = order.waiting[position]
      order.waiting[position] = nil
      order.count = order.count - 1
      lose_packets(flow)
      order.expected = position
      accept(flow, entry, now)
   end

   -- What lies before `order.acked` was received: holes in it will not fill any more.
   local function settle_packets(flow, now)
      local order = flow.order
      while order.count > 0 and order.acked and order.acked >= first_waiting(order) - 1 do
         give_up_packets(flow, now)
      end
   end

   local function wait(flow, position, packet, now)
      local order = flow.order
      if order.waiting[position] then
         return
      end
      if order.count == 0 then
         order.since = now.time
      end
      order.waiting[position] = keep_packet(packet)
      order.count = order.count + 1
      settle_packets(flow, now)
      while order.count > 0 and (now.time - order.since > MAX_WAITING_SECONDS or order.count > MAX_WAITING_PACKETS) do
         give_up_packets(flow, now)
         order.since = now.time
      end
   end

   -- A number far from the expected one; several in a row are a new connection.
   local function wander(flow, packet, now)
      local order = flow.order
      local last = order.far[#order.far]
      if last and packet.psn ~= (last.psn + span_of(order, last)) % PSN_MODULUS then
         if packet.psn ~= last.psn then
            order.far = { keep_packet(packet) }
         end
         return
      end
      insert(order.far, keep_packet(packet))
      if #order.far < (order.fresh and 1 or FAR_CHAIN) then
         return
      end
      local far = order.far
      order.far = {}
      while order.count > 0 do
         give_up_packets(flow, now)
      end
      if not order.fresh then
         restart_flow(flow, now)
      end
      order.expected, order.acked = far[1].psn, nil
      for _, entry in ipairs(far) do
         accept(flow, entry, now)
      end
   end

   -- A number after a READ of unknown MTU tells how many packets its response has.
   local function learn_mtu(order, psn)
      local choices = order.choices
      order.choices = nil
      local mtu = choices[psn]
      if mtu then
         order.mtu = mtu
         order.expected = choices.base + (psn - choices.base) % PSN_MODULUS
      end
   end

   -- Take the next request packet in capture order.
   function put_in_order(flow, packet, now)
      local order = flow.order
      local expected = order.expected or packet.psn
      order.expected, flow.next_middle = expected, nil
      local distance = (packet.psn - expected) % PSN_MODULUS
      if distance == 0 and packet.what.part == SEND then
         accept(flow, packet, now)
         local unit = flow.unit
         if unit and unit.part == SEND and order.count == 0 then
            flow.next_middle = order.expected % PSN_MODULUS
         end
         return
      end
      distance = ahead(expected, packet.psn, PSN_MODULUS)
      if distance ~= 0 and order.choices then
         learn_mtu(order, packet.psn)
         distance = ahead(order.expected, packet.psn, PSN_MODULUS)
      end
      if distance == 0 then
         local base = order.expected
         accept(flow, packet, now)
         if packet.what.part == READ and not order.mtu and #packet.data >= 16 then
            local size = u32(packet.data, 13)
            if size > MTUS[1] then
               order.choices = { base = base }
               for _, mtu in ipairs(MTUS) do
                  order.choices[(packet.psn + math.ceil(size / mtu)) % PSN_MODULUS] = mtu
               end
            end
         end
      elseif distance < 0 and distance >= -FAR_BEHIND_PACKETS then
         return -- sent again, and seen before
      elseif distance > 0 and distance <= (order.fresh and FAR_BEHIND_PACKETS or FAR_AHEAD_PACKETS) then
         wait(flow, order.expected + distance, packet, now)
      else
         wander(flow, packet, now)
      end
   end

   -- The peer has answered the request with this number, and so has all before.
   function packets_acknowledged(flow, psn, now)
      local order = flow.order
      if order.expected == nil then
         return
      end
      local position = order.expected + ahead(order.expected, psn, PSN_MODULUS)
      if not order.patient and (not order.acked or position > order.acked) then
         order.acked = position
         settle_packets(flow, now)
      end
   end
end

-- SENDs of one direction, in order, to RDS messages (protocol.md 7.4). Each SEND is one frame of RDS: a header and at
-- most a fragment of data. All fragments of a message repeat its header, and follow one another with nothing between but
-- ack-only frames.

local MAX_ANNOUNCED, close_message
local ask, announce_write -- RDMA operations; in 3_rdma.lua.
do
   local SEND_FIRST, SEND_MIDDLE, SEND_LAST = 0x00, 0x01, 0x02
   MAX_FRAGMENT_BYTES = 16384
   local MOST_KEPT = HEADER_BYTES + MAX_FRAGMENT_BYTES -- of one SEND, but for the packet that goes beyond
   local MAX_KEPT_BYTES = 4194304 -- payload of one message
   FRAGMENT_BYTES = 4096
   MAX_ANNOUNCED = 512
   local RANK = { bad = 1, absent = 2, good = 3 }

   -- What a receiver compares in the header of a fragment: sequence, length and ports.
   function key_of(raw)
      return sub(raw, 1, 8) .. sub(raw, 17, 24)
   end

   -- What is kept of a message once all is known of it: little, where all is as usual.
   local function kept_of(open, now)
      local alone = open.fragments <= 1 and open.packets <= 1 and open.first.number == now.number
      local message = setmetatable({
         lane = open.lane,
         raw = open.raw,
         frame = open.frame,
         position = open.position,
         parts = open.parts,
         framed = open.framed or nil,
         at = alone and 0 or nil,
      }, MESSAGE)
      if open.first ~= open.frame then
         message.first = open.first
      end
      if open.fragments ~= 1 then
         message.fragments = open.fragments
      end
      if open.seen ~= open.length then
         message.seen, message.complete = open.seen, false
      elseif open.total < open.length then
         message.complete = false
      end
      if open.status ~= "good" then
         message.status = open.status
      end
      message.inferred = open.inferred or nil
      message.operations, message.findings = open.operations, open.findings
      return message
   end

   -- The message that a flow has begun is complete, or will not become so.
   function close_message(flow, open, now)
      flow.open, flow.spare = nil, open
      add_message(kept_of(open, now), now)
      if flow.lost and not open.broken then
         flow.lost = false
      end
   end

   -- Frames are missing here: what comes next may be in mid-message.
   function lose_packets(flow)
      flow.unit = nil
      if flow.open then
         flow.open.broken = true
      end
      flow.lost = true
      flow.announced = {}
   end

   -- RDMA operations just before a message that it announces: those with its key, and atomics (protocol.md 8.1).
   local function operations_for(flow, raw)
      local announced = flow.announced
      if not announced[1] then
         return nil
      end
      flow.announced = {}
      local keys, chosen = {}, {}
      for _, item in ipairs(parse_extensions(sub(raw, 33, 48)).items) do
         if item.type == EXT.RDMA and item.raw then
            keys[u32(item.raw, 1)] = true
         end
      end
      for _, operation in ipairs(announced) do
         local atomic = operation.kind == "compare-swap" or operation.kind == "fetch-add"
         if keys[operation.rkey] or atomic or operation.cut then
            insert(chosen, operation)
         end
      end
      return chosen
   end

   local function begin_message(flow, unit, now)
      local raw = unit.header
      local length = u32(raw, 17)
      -- A flow has one at a time, but for what comes between two fragments, and one table for all.
      local message = flow.spare or {}
      flow.spare = nil
      message.lane, message.raw, message.length, message.key = flow.lane, raw, length, key_of(raw)
      message.first, message.frame, message.position = unit.first, now, unit.position
      message.inferred = flow.lost
      message.sure = not flow.lost or unit.length - HEADER_BYTES >= length
      message.operations = operations_for(flow, raw)
      message.fragments, message.packets, message.total, message.seen = 0, 0, 0, 0
      message.parts, message.kept, message.framed = {}, 0, unit.framed
      message.status, message.broken, message.odd_size, message.solicited = "good", false, false, false
      message.fragment_bytes, message.last_credit, message.granted_again, message.findings = nil, nil, nil, nil
      local data = unit.length - HEADER_BYTES
      if data > FRAGMENT_BYTES and data <= MAX_FRAGMENT_BYTES and data < length then
         flow.fragment_bytes = data
      end
      flow.open = message
      return message
   end

   -- Cut what follows from the part `first` on to `room` bytes.
   local function cut_parts(parts, first, room)
      for index = first, #parts do
         local part = parts[index]
         if #part > room then
            part = sub(part, 1, room)
         end
         parts[index] = part
         room = room - #part
      end
   end

   local function extend_message(message, unit, status, frame)
      local data, packets, total = unit.length - HEADER_BYTES, unit.packets, message.total
      local room, size = message.length - total, data - unit.missing
      room, size = room > 0 and room or 0, size > 0 and size or 0
      message.fragments = message.fragments + 1
      message.packets = message.packets + packets
      message.total = total + data
      message.seen = message.seen + (size < room and size or room)
      message.solicited, message.frame = unit.solicited, frame
      if status ~= message.status and RANK[status] < RANK[message.status] then
         message.status = status
      end
      local kept = message.kept + size
      if kept <= MAX_KEPT_BYTES then
         message.kept = kept
         local parts, from = message.parts, unit.parts
         local count = #parts
         if size > room or unit.framed ~= message.framed then
            if unit.framed then
               cut_frames(from, packets)
            end
            parts_of(message)
            message.framed = false
         end
         for index = 1, packets do
            parts[count + index] = from[index]
         end
         if size > room then
            cut_parts(parts, count + 1, room)
         end
      end
   end

   -- A frame too short for a header, on the wire or in the capture only.
   local function take_headless(flow, unit, frame, now)
      local message = flow.open
      if unit.length < HEADER_BYTES then
         check_fragment(flow, unit, nil, frame, now)
      elseif message and not message.broken then
         message.fragments = message.fragments + 1
         message.total = message.total + unit.length - HEADER_BYTES
         message.solicited = unit.solicited
         message.frame = frame
         if message.total >= message.length then
            close_message(flow, message, now)
         end
      else
         lose_packets(flow)
      end
   end

   -- What a receiver takes for an ack-only frame.
   local function only_acknowledges(unit, raw)
      return unit.length == HEADER_BYTES and sub(raw, 21, 24) == ZERO4
   end

   -- An ack-only frame stands between two fragments of a message: of their boundaries it tells nothing.
   local function take_between(flow, unit, status, frame, now)
      local message, lost, announced = flow.open, flow.lost, flow.announced
      flow.lost, flow.announced = false, {}
      local alone = begin_message(flow, unit, frame)
      check_fragment(flow, unit, alone, frame, now)
      extend_message(alone, unit, status, frame)
      close_message(flow, alone, now)
      flow.open, flow.lost, flow.announced = message, lost, announced
   end

   -- Take the next frame of RDS. `frame` completed it, or the one before it in order.
   local function take_unit(flow, unit, frame, now)
      if #unit.header < HEADER_BYTES then
         take_headless(flow, unit, frame, now)
         return
      end
      local raw = unit.header
      if raw ~= flow.header then
         flow.header, flow.status = raw, checksum_status(raw)
         if flow.status ~= "bad" then
            acknowledged(flow.stream, 1 - flow.direction, u64(raw, 9), now)
         end
      end
      local message, status = flow.open, flow.status
      if message and only_acknowledges(unit, raw) then
         take_between(flow, unit, status, frame, now)
         return
      end
      if message then
         local same = raw == message.raw or key_of(raw) == message.key
         if not same and (message.broken or message.solicited) then
            close_message(flow, message, now)
            message = nil
         elseif message.broken then
            message.broken, message.sure = false, false
         end
      end
      if not message then
         if flow.lost and status == "bad" then
            return
         end
         message = begin_message(flow, unit, frame)
      end
      check_fragment(flow, unit, message, frame, now)
      extend_message(message, unit, status, frame)
      if message.total >= message.length or (not message.sure and unit.solicited) then
         close_message(flow, message, now)
      else
         tell_part(flow.lane, now)
      end
   end

   -- The SEND or WRITE that begins with a packet. A flow has one at a time, and one table for all.
   local function begin_unit(flow, part, frame, position)
      local unit = flow.last_unit or { parts = {} }
      flow.unit, flow.last_unit = unit, unit
      unit.part, unit.first, unit.position, unit.header = part, frame, position, ""
      unit.packets, unit.length, unit.missing, unit.framed = 0, 0, 0, false
      return unit
   end

   -- What a SEND has of its next packet: `data` is what was captured of its `length` bytes, but for a header of RDS, or a frame.
   local function extend_unit(unit, length, data)
      local packets = unit.packets + 1
      unit.packets = packets
      unit.parts[packets] = unit.length <= MOST_KEPT and data or ""
      unit.length = unit.length + length
   end

   -- The first packet of a SEND, in order and with nothing waiting.
   EXPECTED[SEND_FIRST] = function(flow, psn, data, framed, _, number, pinfo)
      local order = flow.order
      local position = flow.known and order.expected
      if not position or position % PSN_MODULUS ~= psn or order.count > 0 or order.fresh or order.choices or order.far[1] then
         return false
      end
      local now = now_of(number, pinfo)
      order.expected, flow.next_middle, flow.high = position + 1, (psn + 1) % PSN_MODULUS, now
      local unit = begin_unit(flow, SEND, now, position)
      if framed then
         local length = #data - FRAMING
         unit.header, unit.framed = sub(data, FRAMED_AT + 1, FRAMED_AT + min(length, HEADER_BYTES)), true
         extend_unit(unit, length, data)
      else
         unit.header = sub(data, 1, HEADER_BYTES)
         extend_unit(unit, #data, sub(data, HEADER_BYTES + 1))
      end
      tell_part(flow.lane, now)
      return true
   end

   -- The middle of one that has begun: it has the flow's `next_middle`.
   EXPECTED[SEND_MIDDLE] = function(flow, psn, data, framed, _, number)
      local unit = flow.unit
      if psn ~= flow.next_middle or framed ~= unit.framed then
         return false
      end
      local order, length = flow.order, unit.length
      order.expected, flow.next_middle = order.expected + 1, (psn + 1) % PSN_MODULUS
      local packets = unit.packets + 1
      unit.packets, unit.length = packets, length + #data - (framed and FRAMING or 0)
      unit.parts[packets] = length <= MOST_KEPT and data or ""
      shown[number] = shown[number] or flow.lane.part_frame
      return true
   end

   -- Its end, which has the same.
   EXPECTED[SEND_LAST] = function(flow, psn, data, framed, solicited, number, pinfo)
      local unit = flow.unit
      if psn ~= flow.next_middle or framed ~= unit.framed or not flow.known then
         return false
      end
      local order, now = flow.order, now_of(number, pinfo)
      order.expected, flow.next_middle, flow.high, flow.unit = order.expected + 1, nil, now, nil
      extend_unit(unit, #data - (framed and FRAMING or 0), data)
      unit.opcode, unit.solicited = SEND_LAST, solicited
      take_unit(flow, unit, now, now)
      if not (now.messages or now.parts) then
         tell_part(flow.lane, now)
      end
      return true
   end

   -- Take a request packet that is next in order: SENDs grow to frames of RDS, other requests to RDMA operations.
   function accept_packet(flow, packet, position, now)
      local frame = packet.frame
      if flow.high and flow.high.number > frame.number then
         frame = flow.high
      end
      flow.high = frame
      local what = packet.what
      local unit = what.starts and begin_unit(flow, what.part, packet.frame, position) or flow.unit
      if not unit or unit.part ~= what.part then
         flow.unit = nil
         return
      end
      if what.part == READ or what.part == ATOMIC then
         flow.unit = nil
         ask(flow, packet, position, frame, now)
         return
      end
      local data = packet.data
      if what.header > 0 then
         data = sub(data, what.header + 1)
      end
      local length = max(0, packet.length - what.header)
      unit.missing = unit.missing + length - #data
      if what.part == SEND then
         if what.starts then
            unit.header, data = sub(data, 1, HEADER_BYTES), sub(data, HEADER_BYTES + 1)
         elseif unit.framed then
            cut_frames(unit.parts, unit.packets)
            unit.framed = false
         end
         extend_unit(unit, length, data)
         if what.ends then
            flow.unit = nil
            unit.opcode, unit.solicited = packet.opcode, packet.solicited
            take_unit(flow, unit, frame, now)
         else
            tell_part(flow.lane, now)
         end
         return
      elseif what.starts then
         unit.reth = sub(packet.data, 1, 16)
      end
      unit.packets = unit.packets + 1
      unit.length = unit.length + length
      if what.ends then
         flow.unit = nil
         unit.opcode, unit.solicited = packet.opcode, packet.solicited
         announce_write(flow, unit, position, frame, now)
      end
   end
end

-- What a flow of packets tells of itself: whether it is RDS, which numbers it has, and how long its packets can be.

local observe, note_numbers, fits, note_mtu
do
   local MAX_STEP = 4096
   local KNOWN_BITS = 0x40 -- flags below this are known to some kernel
   local NUMBER_SLACK = 4096

   -- The header, where it carries a good checksum and says nothing that no kernel would.
   local function plausible_header(raw)
      if #raw < HEADER_BYTES or checksum_status(raw) ~= "good" then
         return nil
      end
      local flags, length, ports = byte(raw, 25), u32(raw, 17), sub(raw, 21, 24)
      if flags >= KNOWN_BITS or length > MAX_MESSAGE_BYTES or sub(raw, 27, 30) ~= ZERO4 then
         return nil
      end
      local sequence = u64(raw, 1)
      if sequence == 0 then
         if ports ~= ZERO4 or (u64(raw, 9) == 0 and length == 0) then
            return nil
         end
      elseif ports == ZERO4 then
         return nil
      end
      return { sequence = sequence, key = sub(raw, 17, 24) }
   end

   local function agree(before, after)
      if before.sequence == 0 or after.sequence == 0 then
         return true
      elseif before.sequence == after.sequence then
         return before.key == after.key
      end
      local step = after.sequence - before.sequence
      return step > 0 and step <= MAX_STEP
   end

   -- Look at a packet of a flow that is not decided yet.
   function observe(flow, packet)
      local what = packet.what
      if what.part ~= SEND or not what.starts then
         return
      elseif #packet.data < what.header + HEADER_BYTES then
         -- Cut short in the capture, it tells nothing.
         flow.foreign_frames = flow.foreign_frames + (packet.length < what.header + HEADER_BYTES and 1 or 0)
         return
      end
      local header = plausible_header(sub(packet.data, what.header + 1, what.header + HEADER_BYTES))
      if header then
         flow.good = flow.good + 1
         flow.run = flow.last and agree(flow.last, header) and flow.run + 1 or 1
         flow.chain = max(flow.chain, flow.run)
      else
         flow.foreign_frames = flow.foreign_frames + 1
         flow.run = 0
      end
      flow.last = header
   end

   -- The lowest and the highest packet number seen: of requests, or of answers. What is sent again has lower ones.
   function note_numbers(flow, packet)
      local name, psn = packet.what.part == RESPONSE and "answered_numbers" or "request_numbers", packet.psn
      local numbers = flow[name]
      if not numbers then
         flow[name] = { low = psn, high = psn }
      elseif ahead(numbers.high, psn, PSN_MODULUS) > 0 then
         numbers.high = psn
      elseif ahead(numbers.low, psn, PSN_MODULUS) < 0 then
         numbers.low = psn
      end
   end

   -- Whether another flow is the opposite direction: above 0 for yes, below for no, 0 for not known. The answers in one carry
   -- the numbers of the requests in the other.
   function fits(flow, other)
      local score = 0
      for asks, answers in pairs({ [flow] = other, [other] = flow }) do
         local numbers, replies = asks.request_numbers, answers.answered_numbers
         if numbers and replies then
            local width = (numbers.high - numbers.low) % PSN_MODULUS
            local near = (replies.high - numbers.low + NUMBER_SLACK) % PSN_MODULUS <= width + 2 * NUMBER_SLACK
            score = score + (near and 1 or -1)
         end
      end
      return score
   end

   -- Learn the path MTU from a packet that is as long as it.
   function note_mtu(flow, packet)
      local code = packet.opcode
      if code == 0x00 or code == 0x06 or code == 0x0d then
         local size = packet.length - packet.what.header
         for _, mtu in ipairs(MTUS) do
            if size == mtu then
               flow.mtu = mtu
            end
         end
      end
   end
end

-- RDMA READ, WRITE and atomic operations: from request to answer (InfiniBand Architecture vol. 1, 9.4 and 9.7).

local start_operations, take_response, settle_operation
do
   local ACKNOWLEDGE, ATOMIC_ACKNOWLEDGE, COMPARE_SWAP = 0x11, 0x12, 0x13
   local READ_RESPONSE_FIRST, READ_RESPONSE_MIDDLE = 0x0d, 0x0e
   local MAX_PENDING = 1024
   local MAX_EARLY = 1024 -- responses kept that came before their request was read
   local SETTLE_FRAMES = 64 -- after the last response in which missing ones may still come
   local NAK_NAMES = {
      [0] = "PSN sequence error",
      "invalid request",
      "remote access error",
      "remote operational error",
      "invalid RD request",
   }

   local operation_count

   function start_operations()
      operation_count = 0
   end

   -- The outcome of an operation is known: it is shown in the frame that told.
   function settle_operation(flow, operation, now)
      operation.numbers = nil
      operation.late = operation.frame.number ~= now.number
      operation.stream, operation.direction = flow.stream, flow.direction
      insert(shows(at_end and operation.frame or now, "operations"), operation)
   end

   local function answer_operation(flow, response, now)
      local list = flow.pending
      for index, operation in ipairs(list) do
         if operation.psn <= response.psn and response.psn <= operation.stop then
            local reads = operation.kind == "rdma-read" and response.opcode >= 0x0d and response.opcode <= 0x10
            local atomic = response.opcode == ATOMIC_ACKNOWLEDGE and operation.operands ~= nil
            if not (reads or atomic) then
               return false
            elseif operation.numbers[response.psn] then
               return true
            end
            operation.numbers[response.psn] = true
            if response.frame.number > operation.frame.number then
               operation.frame = response.frame
            end
            operation.seen = operation.seen + response.seen
            operation.received = operation.received + response.size
            if operation.received >= operation.length then
               if atomic then
                  insert(operation.operands, response.original)
               end
               operation.status = "ok"
               remove(list, index)
               settle_operation(flow, operation, now)
            end
            return true
         end
      end
      return false
   end

   -- All requests up to `psn` were carried out, as `frame` tells.
   local function operations_acknowledged(flow, psn, frame, now)
      local list, index = flow.pending, 1
      while list[index] and list[index].stop <= psn do
         local operation = list[index]
         local write = operation.kind == "rdma-write"
         operation.status = "ok"
         operation.answered = operation.answered or frame.number
         if write and frame.number > operation.frame.number then
            operation.frame = frame
         end
         -- Responses of a READ may still come, where the capture reorders.
         if write or frame.number - operation.answered >= SETTLE_FRAMES then
            remove(list, index)
            settle_operation(flow, operation, now)
         else
            index = index + 1
         end
      end
   end

   local function refuse_operations(flow, psn, frame, name, now)
      local list = flow.pending
      while list[1] and list[1].psn <= psn do
         local operation = remove(list, 1)
         operation.status = "ok"
         if operation.stop >= psn then
            operation.status = name
            operation.frame = frame
         end
         settle_operation(flow, operation, now)
      end
   end

   -- What came before the request was read: it waited behind a hole, or the capture reorders.
   local function answer_early(flow, operation, now)
      local kept = {}
      for _, response in ipairs(flow.early) do
         local own = response.psn >= operation.psn and response.psn <= operation.stop
         if not (own and answer_operation(flow, response, now)) then
            insert(kept, response)
         end
      end
      flow.early = kept
   end

   local function enter_operation(flow, operation, now)
      operation_count = operation_count + 1
      operation.id = operation_count
      operation.status, operation.received, operation.numbers = "unknown", 0, {}
      if #flow.announced < MAX_ANNOUNCED then
         insert(flow.announced, operation)
      end
      insert(flow.pending, operation)
      if flow.early[1] then
         answer_early(flow, operation, now)
      end
      if operation.numbers and flow.answered and flow.answered >= operation.stop then
         -- It was read late, behind a hole: that it was carried out was known before.
         operation.status, operation.answered = "ok", flow.answered_in
         if operation.kind == "rdma-write" then
            remove(flow.pending)
            settle_operation(flow, operation, now)
         end
      end
      if #flow.pending > MAX_PENDING then
         settle_operation(flow, remove(flow.pending, 1), now)
      end
   end

   -- What a request asks for; nothing, where that was not captured.
   local function reth_of(raw)
      if #raw < 16 then
         return { va = ZERO8, rkey = 0, length = 0, cut = true }
      end
      return { va = sub(raw, 1, 8), rkey = u32(raw, 9), length = u32(raw, 13) }
   end

   function announce_write(flow, unit, position, frame, now)
      local operation = reth_of(unit.reth)
      operation.kind, operation.psn, operation.stop = "rdma-write", unit.position, position
      operation.first, operation.frame, operation.seen = unit.first, frame, unit.length - unit.missing
      enter_operation(flow, operation, now)
   end

   -- A READ or an atomic: one packet.
   function ask(flow, packet, position, frame, now)
      local operation
      if packet.what.part == READ then
         operation = reth_of(sub(packet.data, 1, 16))
         operation.kind = "rdma-read"
         operation.stop = position + read_span(flow.order, operation.length) - 1
      else
         local raw = packet.data .. rep("\0", max(0, 28 - #packet.data))
         operation = #packet.data < 28 and reth_of("") or { va = sub(raw, 1, 8), rkey = u32(raw, 9), length = 8 }
         operation.stop = position
         if packet.opcode == COMPARE_SWAP then
            operation.kind, operation.operands = "compare-swap", { sub(raw, 21, 28), sub(raw, 13, 20) }
         else
            operation.kind, operation.operands = "fetch-add", { sub(raw, 13, 20) }
         end
      end
      operation.psn, operation.first, operation.frame, operation.seen = position, packet.frame, frame, 0
      enter_operation(flow, operation, now)
   end

   -- All before `psn` was answered.
   local function note_answer(flow, psn, frame, now)
      if not flow.answered or psn > flow.answered then
         flow.answered, flow.answered_in = psn, frame.number
      end
      if flow.pending[1] then
         operations_acknowledged(flow, psn, frame, now)
      end
   end

   -- An acknowledgement, or the refusal of a request.
   local function take_acknowledge(flow, packet, psn, now)
      local syndrome = byte(packet.data, 1) or 0
      local kind, code = floor(syndrome / 32) % 4, syndrome % 32
      if kind == 0 then
         packets_acknowledged(flow, packet.psn, now)
         note_answer(flow, psn, packet.frame, now)
      elseif kind == 3 and code ~= 0 then
         refuse_operations(flow, psn, packet.frame, NAK_NAMES[code] or format("NAK code %d", code), now)
      end
   end

   -- An acknowledgement that nothing waits for.
   EXPECTED[ACKNOWLEDGE] = function(answering, psn, data, framed, _, number)
      local before, behind = framed and FRAMED_AT or 0, framed and FRAMED_BEHIND or 0
      if not answering.known or #data ~= before + 4 + behind or byte(data, before + 1) % 128 >= 32 then
         return false
      end
      local flow = answering.peer
      local order = flow.order
      local expected = order.expected
      if not expected or order.count > 0 or flow.pending[1] then
         return false
      end
      local position = expected + ahead(expected, psn, PSN_MODULUS)
      if not order.patient and position > (order.acked or -huge) then
         order.acked = position
      end
      if position > (flow.answered or -huge) then
         flow.answered, flow.answered_in = position, number
      end
      return true
   end

   -- Take an answer to requests of `flow`.
   function take_response(flow, packet, now)
      local order = flow.order
      if order.expected == nil then
         return
      end
      local psn = order.expected + ahead(order.expected, packet.psn, PSN_MODULUS)
      local opcode, header = packet.opcode, packet.what.header
      if opcode == ACKNOWLEDGE then
         take_acknowledge(flow, packet, psn, now)
         return
      end
      local response = {
         opcode = opcode,
         psn = psn,
         frame = packet.frame,
         size = max(0, packet.length - header),
         seen = max(0, #packet.data - header),
      }
      if opcode == ATOMIC_ACKNOWLEDGE then
         response.size, response.seen = 8, max(0, min(8, #packet.data - 4))
         response.original = sub(packet.data .. rep("\0", 12), 5, 12)
      end
      packets_acknowledged(flow, packet.psn, now)
      if not answer_operation(flow, response, now) then
         insert(flow.early, response)
         if #flow.early > MAX_EARLY then
            remove(flow.early, 1)
         end
      end
      if opcode ~= READ_RESPONSE_MIDDLE and opcode ~= READ_RESPONSE_FIRST then
         note_answer(flow, psn, packet.frame, now)
      end
   end
end

-- Flows: what goes to one queue pair from one address. Two of them are the directions of an InfiniBand connection.
-- RDMA-CM tells which flows are RDS. Without it, headers do whose checksums verify and which fit to each other: twice in
-- a row is no chance, so that iSER, SMC, NVMe over Fabrics and NFS over RDMA are left alone.

local find_flow, new_flow, direct, follow, finish_flow
local flows, flow_count -- the set of all flows
local take_datagram -- A packet that may be a message of the connection manager; in 5_cm.lua.
do
   local MIN_CHAIN = 2 -- headers that must verify and agree
   local MAX_FOREIGN = 8 -- frames without a good header after which a flow is something else
   local MAX_FLOWS = 131072
   local MAX_KEPT_PACKETS = 256 -- of a flow that is not decided
   local MAX_LIKELY_PACKETS = 4096 -- of one in which a header says so: the next may come behind RDMA operations
   local SETTLED_PACKETS = 16 -- requests that a flow is judged on where the capture is read twice
   local PAIRING_PACKETS = 128 -- in which the proof is awaited that it is the other direction of a known one
   local CM_QP = 1
   local BTH_BYTES = 12

   local last_packet -- the same table for all: what has to wait is copied
   local by_queue_pair -- number of a queue pair -> source -> destination -> the flow to it

   function start_infiniband()
      flows, flow_count, by_queue_pair, orphans, last_packet = {}, 0, {}, {}, {}
      start_operations()
   end

   function find_flow(src, dst, qpn)
      local from = by_queue_pair[qpn]
      local to = from and from[src]
      return to and to[dst]
   end

   -- A flow about which nothing is known, in place of an earlier one between the same ends.
   function new_flow(src, dst, qpn)
      local before = find_flow(src, dst, qpn)
      if before then
         flows[before], before.replaced = nil, true
      elseif flow_count >= MAX_FLOWS then
         return nil
      else
         flow_count = flow_count + 1
      end
      local flow = { src = src, dst = dst, qpn = qpn, kept = {}, good = 0, foreign_frames = 0, run = 0, chain = 0 }
      flow.pending, flow.early, flow.announced, flow.answers = {}, {}, {}, {}
      flow.packets, flow.requests, flow.patient = 0, 0, rds.prefs.settle
      local from = by_queue_pair[qpn] or {}
      local to = from[src] or {}
      by_queue_pair[qpn], from[src], to[dst] = from, to, flow
      flows[flow] = true
      return flow
   end

   -- Make a flow a direction of a stream. `lost`: its first frame may be in mid-message.
   function direct(flow, stream, direction, expected, lost)
      flow.stream, flow.direction, flow.lost = stream, direction, lost
      flow.lane = stream.lanes[direction]
      local mtu = flow.order and flow.order.mtu or flow.mtu
      flow.order = new_order(expected)
      flow.order.mtu = mtu
      flow.fragment_bytes = FRAGMENT_BYTES
   end

   -- The flow of the other direction, where that is proved, or where `any` will do and only one can be it; and whether there
   -- are any that can.
   local function counterpart(flow, any)
      local proved, best, found, count = nil, 0, nil, 0
      for other in pairs(flows) do
         if other.stream and not other.peer and other.src == flow.dst and other.dst == flow.src then
            local score = fits(flow, other)
            if score >= 0 then
               found, count = other, count + 1
            end
            if score > best then
               proved, best = other, score
            end
         end
      end
      return proved or any and count == 1 and found or nil, count > 0
   end

   -- The lowest number of the first requests.
   local function first_position(flow)
      local first, least, count = nil, 0, 0
      for _, packet in ipairs(flow.kept) do
         if packet.what.part ~= RESPONSE and count < SETTLED_PACKETS then
            first, count = first or packet.psn, count + 1
            least = min(least, ahead(first, packet.psn, PSN_MODULUS))
         end
      end
      return first and (first + least) % PSN_MODULUS
   end

   -- A flow is RDS: it becomes the other direction of `peer`, or the first of a stream of its own.
   local function attach(flow, peer, now)
      local start = first_position(flow)
      if peer then
         flow.peer, peer.peer = peer, flow
         flow.lives, flow.life = peer.lives, 1
         for life, stream in ipairs(peer.lives) do
            flow.life = stream.first_frame <= flow.first_frame.number and life or flow.life
            local own = peer.direction == 1 and stream.b or stream.a
            own.port = flow.qpn
         end
         direct(flow, flow.lives[flow.life], 1 - peer.direction, start, true)
      else
         local source, target = { host = flow.src, port = 0 }, { host = flow.dst, port = flow.qpn }
         local forward = address_bytes(flow.src) <= address_bytes(flow.dst)
         local a, b = forward and source or target, forward and target or source
         local stream = add_stream("ib", a, b, false)
         stream.first_frame = flow.first_frame.number
         flow.lives, flow.life = { stream }, 1
         direct(flow, stream, forward and 0 or 1, start, true)
         tell(stream, flow.direction, "opened", flow.patient and flow.first_frame or now)
      end
      local kept = flow.kept
      flow.kept = {}
      for _, packet in ipairs(kept) do
         follow(flow, packet, now)
      end
      for _, packet in ipairs(peer and peer.answers or {}) do
         follow(peer, packet, now)
      end
   end

   -- The numbers of a queue pair jumped far away: what follows is another connection.
   function restart_flow(flow, now)
      finish_flow(flow, now)
      local lives = flow.lives
      if flow.life == #lives then
         local stream = add_stream("ib", flow.stream.a, flow.stream.b, false)
         stream.first_frame = now.number
         insert(lives, stream)
         tell(stream, flow.direction, "opened", now)
      end
      flow.life = flow.life + 1
      flow.stream = lives[flow.life]
      flow.lane = flow.stream.lanes[flow.direction]
      flow.lost, flow.unit, flow.early, flow.header, flow.answered = true, nil, {}, nil, nil
   end

   function follow(flow, packet, now)
      if packet.what.part ~= RESPONSE then
         put_in_order(flow, packet, now)
      elseif flow.peer then
         take_response(flow.peer, packet, now)
      elseif #flow.answers < MAX_KEPT_PACKETS then
         insert(flow.answers, packet.frame == now and keep_packet(packet) or packet)
      end
   end

   -- Note the last packet of a SEND that has no begin.
   local function find_orphan(flow, packet)
      local what = packet.what
      if what.part == SEND then
         local begun = what.starts or (flow and flow.next_part == packet.psn)
         if what.ends and not begun then
            orphans[packet.frame.number] = true
         elseif flow then
            flow.next_part = begun and not what.ends and (packet.psn + 1) % PSN_MODULUS or nil
         end
      end
   end

   -- Decide about a flow, or wait until that can be done. Where the capture is read twice, it is judged on more packets:
   -- reordering at its start is undone within them, and its other direction is known.
   local function decide(flow, now)
      if flow.foreign_frames >= MAX_FOREIGN and flow.foreign_frames > 2 * flow.good then
         flow.foreign, flow.kept = true, {}
      elseif not flow.patient then
         if flow.chain >= MIN_CHAIN then
            attach(flow, counterpart(flow, true), now)
         end
      elseif flow.good > 0 and (flow.requests >= SETTLED_PACKETS or flow.packets >= PAIRING_PACKETS) then
         local enough = flow.packets >= PAIRING_PACKETS
         local peer, candidates = counterpart(flow, enough)
         if peer or flow.chain >= MIN_CHAIN and (enough or not candidates) then
            attach(flow, peer, now)
         end
      end
   end

   -- Take a packet of a flow that is RDS. Where that is `known`, nothing is to be learned of it but what packets carry.
   function feed_known(flow, packet, now)
      local what = OPCODES[packet.opcode]
      if not what then
         return
      end
      packet.what, packet.frame = what, now
      follow(flow, packet, now)
      if packet.length > what.header and not (now.messages or now.parts) then
         -- Claims the payload of what waits, was seen before, or is RDMA: else another heuristic may take it.
         tell_part(flow.lane, now)
      end
   end

   -- Take a packet of the InfiniBand transport. Returns true where its flow is RDS.
   function feed_packet(packet, now)
      if packet.qpn == CM_QP and packet.opcode == 0x64 then
         return take_datagram(packet, now)
      end
      local what = OPCODES[packet.opcode]
      if not what or packet.qpn <= CM_QP then
         return false
      end
      packet.what, packet.frame = what, now
      local flow = packet.flow or new_flow(packet.src, packet.dst, packet.qpn)
      if flow then
         flow.first_frame, flow.last_frame = flow.first_frame or now, now
      end
      if not (flow and flow.stream) then
         find_orphan(flow, packet)
      end
      if not flow or flow.foreign then
         return false
      end
      if not flow.mtu then
         note_mtu(flow, packet)
      end
      if not flow.peer then
         note_numbers(flow, packet)
      end
      if flow.stream then
         local order = flow.order
         order.mtu = order.mtu or flow.mtu or (flow.peer and flow.peer.mtu)
         flow.known = flow.mtu and flow.peer
         feed_known(flow, packet, now)
         return true
      end
      flow.packets = flow.packets + 1
      flow.requests = flow.requests + (what.part ~= RESPONSE and 1 or 0)
      if flow.chain < MIN_CHAIN then
         observe(flow, packet)
      end
      insert(flow.kept, keep_packet(packet))
      if #flow.kept > (flow.good > 0 and MAX_LIKELY_PACKETS or MAX_KEPT_PACKETS) then
         remove(flow.kept, 1)
      end
      decide(flow, now)
      return flow.stream ~= nil
   end

   -- Hand on what waits for its order or its end: nothing more will come.
   function finish_flow(flow, now)
      while flow.order.count > 0 do
         give_up_packets(flow, now)
      end
      if flow.open then
         close_message(flow, flow.open, now)
      end
      while flow.pending[1] do
         settle_operation(flow, remove(flow.pending, 1), now)
      end
   end

   -- Decide at the capture's end what was not decided.
   local function decide_at_last(found)
      for _, flow in ipairs(found) do
         if flow.patient and not flow.stream and not flow.foreign and flow.chain >= MIN_CHAIN then
            attach(flow, counterpart(flow, true), flow.last_frame)
         end
      end
      for _, flow in ipairs(found) do
         if flow.patient and not flow.stream and not flow.foreign and flow.good > flow.foreign_frames then
            local peer = counterpart(flow, false)
            if peer then
               attach(flow, peer, flow.last_frame)
            end
         end
      end
   end

   -- The capture has ended: give up all holes, and report what is incomplete and what was not answered.
   function finish_infiniband()
      local found = {}
      for flow in pairs(flows) do
         if flow.first_frame then
            insert(found, flow)
         end
      end
      table.sort(found, function(a, b)
         return a.first_frame.number < b.first_frame.number
      end)
      decide_at_last(found)
      for _, flow in ipairs(found) do
         if flow.stream then
            finish_flow(flow, flow.high or flow.first_frame)
         end
      end
   end

   -- Read BTH, which begins behind `at` bytes of `tvb`; `head` has its first ones. `stop` is where ICRC begins on the wire.
   function read_packet(tvb, head, at, stop, src, dst)
      local first = at + BTH_BYTES
      if min(#head, stop) < first then
         return nil
      end
      local opcode, bits, _, _, _, q2, q1, q0, _, p2, p1, p0 = byte(head, at + 1, first)
      local pad = bits % 64
      if pad >= 16 then
         stop = max(first, stop - floor(pad / 16))
      end
      local packet = last_packet
      packet.src, packet.dst, packet.opcode, packet.solicited = src, dst, opcode, bits >= 128
      packet.qpn, packet.psn = (q2 * 256 + q1) * 256 + q0, (p2 * 256 + p1) * 256 + p0
      packet.length, packet.data = stop - first, bytes_between(tvb, first, stop)
      packet.flow = find_flow(src, dst, packet.qpn)
      return packet
   end

   -- A packet whose flow is known, whole: `data` follows its BTH.
   function whole_packet(flow, opcode, solicited, psn, data)
      local packet = last_packet
      packet.src, packet.dst, packet.qpn, packet.flow = flow.src, flow.dst, flow.qpn, flow
      packet.opcode, packet.solicited, packet.psn = opcode, solicited, psn
      packet.length, packet.data = #data, data
      return packet
   end
end

-- RDMA-CM: which queue pairs were connected, for which service, and between which RDS addresses (protocol.md 7.1).

do
   local is_copy, recent
   do
      -- RDMA-CM waits longer before it sends a message again: what comes sooner was captured twice. By frames, where two
      -- times are of clocks that have nothing in common (protocol.md 13).
      local REPEATED_SECONDS, REPEATED_FRAMES, OTHER_CLOCK_SECONDS = 1, 64, 86400
      local MAX_RECENT, MOST_BYTES = 1024, 264

      -- Whether the same message was captured a moment ago: at the other end, in a capture that was merged of both.
      function is_copy(packet, now)
         local name = packet.src .. ">" .. packet.dst .. ">" .. sub(packet.data, 1, MOST_BYTES)
         local before, entry = recent[name], { name = name, number = now.number, time = now.time }
         recent[name] = entry
         insert(recent, entry)
         if #recent > MAX_RECENT then
            local oldest = remove(recent, 1)
            recent[oldest.name] = recent[oldest.name] ~= oldest and recent[oldest.name] or nil
         end
         local apart = math.abs(now.time - (before or now).time)
         return before ~= nil
            and (apart < REPEATED_SECONDS or apart > OTHER_CLOCK_SECONDS and now.number - before.number <= REPEATED_FRAMES)
      end
   end

   local DETH_BYTES, MAD_BYTES, CM_BYTES, IP_CM_BYTES = 8, 24, 232, 36
   local CM_CLASS = 0x07
   local DREQ = 0x15
   REQ, REJ, REP = 0x10, 0x12, 0x13
   local CM_NAMES = {
      [REQ] = "REQ",
      [0x11] = "MRA",
      [REJ] = "REJ",
      [REP] = "REP",
      [0x14] = "RTU",
      [DREQ] = "DREQ",
      [0x16] = "DREP",
   }
   local MAX_EXCHANGES = 16384
   -- Exchanges by the address of each side and its communication ID.
   local active, passive, exchange_queue

   function start_cm()
      recent = {} -- source, destination and bytes of a message -> its latest frame; and these frames in their order
      active, passive, exchange_queue = {}, {}, { first = 1, last = 0 }
   end

   local function exchange_key(src, dst, id)
      return src .. ">" .. dst .. "/" .. id
   end

   local function remember(key, exchange)
      active[key] = exchange
      local queue = exchange_queue
      queue.last = queue.last + 1
      queue[queue.last] = { key, exchange }
      if queue.last - queue.first >= MAX_EXCHANGES then
         local old_key, old = queue[queue.first][1], queue[queue.first][2]
         queue[queue.first] = nil
         queue.first = queue.first + 1
         if active[old_key] == old then
            active[old_key] = nil
         end
         if old.passive_key then
            passive[old.passive_key] = nil
         end
      end
   end

   local function rds_address(raw, version)
      return address_text(version == 4 and sub(raw, 13, 16) or raw)
   end

   -- RDS private data, or what is wrong with them.
   local function read_private(data, version, problem)
      local layout = CM_PRIVATE[version]
      if problem then
         return nil, problem
      end
      local raw = sub(data, 1, layout.size)
      if raw == rep("\0", layout.size) then
         return nil, "no RDS private data"
      end
      return raw, nil
   end

   local function take_request(message, body, src, dst, problem)
      local version = RDS_SERVICES[sub(body, 9, 16)] or 0
      local id = u32(body, 1)
      local a, b = src, dst
      message.version = version
      if version > 0 then
         local private = sub(body, 141)
         message.ip = sub(private, 1, IP_CM_BYTES)
         message.private, problem = read_private(sub(private, IP_CM_BYTES + 1), version, problem)
         local ip_version = floor(byte(message.ip, 2) / 16)
         if not problem and ip_version ~= version then
            problem = format("IP version %d does not go with the service's %d", ip_version, version)
         end
         local saddr, daddr = sub(message.ip, 5, 20), sub(message.ip, 21, 36)
         if find(saddr, "[^\0]") and find(daddr, "[^\0]") then
            a, b = rds_address(saddr, version), rds_address(daddr, version)
         elseif message.private then
            local size = version == 4 and 4 or 16
            a, b = address_text(sub(message.private, 1, size)), address_text(sub(message.private, size + 1, 2 * size))
         end
      end
      message.problem = problem
      local key = exchange_key(src, dst, id)
      local exchange = active[key]
      if not exchange or exchange.transaction ~= message.transaction then
         local mtu = floor(byte(body, 51) / 16)
         exchange = {
            active = src,
            passive = dst,
            transaction = message.transaction,
            version = version,
            qpn = u24(body, 33),
            psn = u24(body, 45),
            mtu = mtu >= 1 and mtu <= 5 and 128 * 2 ^ mtu or nil,
            a = a,
            b = b,
            passive_id = 0,
            request = message,
         }
         remember(key, exchange)
      end
      return exchange
   end

   -- The exchange of a message that is no REQ.
   local function find_exchange(attribute, body, src, dst)
      local own_id = u32(body, 1)
      local has_remote = attribute ~= REQ
      local remote_id = has_remote and u32(body, 5) or 0
      local found = active[exchange_key(dst, src, remote_id)]
      if found and (attribute == REP or found.passive_id == 0 or found.passive_id == own_id) then
         return found, false
      end
      found = active[exchange_key(src, dst, own_id)]
      if found and (remote_id == 0 or found.passive_id == 0 or found.passive_id == remote_id) then
         return found, true
      end
      found = passive[exchange_key(src, dst, own_id)]
      if found then
         return found, false
      end
      if attribute == REJ and remote_id == 0 then
         return nil, false
      end
      return passive[exchange_key(dst, src, remote_id)], true
   end

   local connect
   do
      local function renew(src, dst, qpn, now)
         local old = find_flow(src, dst, qpn)
         local kept = old and old.kept or {}
         if old and old.stream then
            finish_flow(old, now)
         end
         if old and old.peer and old.peer.peer == old then
            old.peer.peer, old.peer.known = nil, nil
         end
         return new_flow(src, dst, qpn), kept
      end

      -- A packet that came before the REP: of this connection where its number is one of the next. Answers come after requests.
      local function take_early(flow, packet, expected, answers, now)
         if (packet.what.part == RESPONSE) == answers and (packet.psn - expected) % PSN_MODULUS < MAX_WAITING_PACKETS then
            follow(flow, packet, now)
         end
      end

      -- Two queue pairs are connected: for RDS, or not.
      function connect(exchange, now)
         local forward, early = renew(exchange.active, exchange.passive, exchange.passive_qpn, now)
         local back, early_back = renew(exchange.passive, exchange.active, exchange.qpn, now)
         if not (forward and back) then
            return
         elseif exchange.version == 0 then
            forward.foreign, back.foreign = true, true
            return
         end
         local a, b = { host = exchange.a, port = exchange.qpn }, { host = exchange.b, port = exchange.passive_qpn }
         local stream = add_stream("ib", a, b, true)
         exchange.stream = stream
         tell(stream, 0, "opened", now)
         forward.mtu, back.mtu = exchange.mtu, exchange.mtu
         direct(forward, stream, 0, exchange.passive_psn, false)
         direct(back, stream, 1, exchange.psn, false)
         forward.peer, back.peer = back, forward
         stream.first_frame = now.number
         forward.lives, forward.life = { stream }, 1
         back.lives, back.life = forward.lives, 1
         for _, answers in ipairs({ false, true }) do
            for _, packet in ipairs(early) do
               take_early(forward, packet, exchange.passive_psn, answers, now)
            end
            for _, packet in ipairs(early_back) do
               take_early(back, packet, exchange.psn, answers, now)
            end
         end
      end
   end

   -- Take a datagram to queue pair 1. Returns true where it is a message of RDMA-CM that belongs to RDS.
   function take_datagram(packet, now)
      local data = packet.data
      if is_copy(packet, now) or #data < DETH_BYTES + MAD_BYTES then
         return false
      end
      local attribute = u16(data, DETH_BYTES + 17)
      local start = DETH_BYTES + MAD_BYTES
      if byte(data, DETH_BYTES + 2) ~= CM_CLASS or not CM_NAMES[attribute] then
         return false
      end
      local problem
      local body = sub(data, start + 1, start + CM_BYTES)
      if #body < CM_BYTES then
         problem = format("cut short: %d of %d bytes were captured", #data - start, CM_BYTES)
      end
      local message = {
         attribute = attribute,
         name = CM_NAMES[attribute],
         transaction = sub(data, DETH_BYTES + 9, DETH_BYTES + 16),
         src = packet.src,
         dst = packet.dst,
         body = body .. rep("\0", CM_BYTES - #body),
         cut = #body < CM_BYTES,
      }
      body = message.body
      local exchange
      if attribute == REQ then
         exchange = take_request(message, body, packet.src, packet.dst, problem)
      else
         exchange = find_exchange(attribute, body, packet.src, packet.dst)
         if not exchange then
            return false
         end
         if attribute == REP and not exchange.established then
            exchange.established = true
            exchange.passive_id, exchange.passive_qpn, exchange.passive_psn = u32(body, 1), u24(body, 13), u24(body, 21)
            exchange.passive_key = exchange_key(exchange.passive, exchange.active, exchange.passive_id)
            passive[exchange.passive_key] = exchange
            connect(exchange, now)
         end
         message.problem = problem
         if attribute == DREQ and exchange.stream and not exchange.closed then
            exchange.closed = true
            tell(exchange.stream, packet.src == exchange.active and 0 or 1, "DREQ", now)
         end
         if attribute == REP and exchange.version > 0 then
            message.private, message.problem = read_private(sub(body, 37), exchange.version, problem)
         elseif attribute == REJ and find(sub(body, 85, 88), "[^\0]") then
            message.reject = sub(body, 85, 88)
         end
      end
      if exchange.version == 0 then
         return false
      end
      message.version, message.exchange, message.stream = exchange.version, exchange, exchange.stream
      check_cm(message)
      insert(shows(now, "cm"), message)
      return true
   end
end

end

-- What a message means after those before it: path, expected number, repetition, ping and pong, acknowledgement.

local MAX_PATHS, acknowledging_frame, path_at
local check_message -- In 41_rules.lua.
do
   local MAX_LOOKED_AT = 65536 -- messages of one direction among which the first copy of a repeated one is looked for
   local MAX_PINGS = 1024
   MAX_PATHS = 8

   -- What a probe or its reply says about the side that sent it; the path that follows from it (protocol.md 5.1).
   local function hear_probe(message)
      local stream = message.stream
      local parsed = parse_extensions(sub(message.raw, 33, 48))
      local npaths = extension_of(parsed, EXT.NPATHS)
      local source = ends_of(stream, message.direction)
      local before = stream.pair.announced[source.host]
      local said = {
         since = message.number,
         npaths = npaths and max(1, u16(npaths, 1)) or 1,
         sport_idx = extension_of(parsed, EXT.SPORT_IDX) ~= nil,
      }
      -- What is repeated holds from when it was said first.
      if not (before and before.npaths == said.npaths and before.sport_idx == said.sport_idx) then
         stream.pair.announced[source.host] = said
      end
      stream.probed = stream.probed or message.number
   end

   -- The path, where the protocol itself tells it up to message `number`; an inference is left to `rdstool decode`.
   local function path_of(stream, number)
      if not stream.tcp then
         return nil
      elseif stream.probed and stream.probed <= number then
         return 0
      end
      local announced = stream.pair.announced
      local dialled = announced[stream.a.host]
      if not (dialled and dialled.sport_idx and dialled.since <= number) then
         return nil
      end
      local npaths = MAX_PATHS
      for _, said in pairs(announced) do
         if said.since <= number then
            npaths = min(npaths, said.npaths)
         end
      end
      return MAX_PATHS % npaths == 0 and stream.a.port % npaths or nil
   end

   -- The first copy of a repeated message: on this stream, or on an earlier one between the same addresses.
   local function original_of(message)
      local source = ends_of(message.stream, message.direction)
      local list = message.stream.pair.streams
      for index = #list, 1, -1 do
         for direction = 0, 1 do
            if ends_of(list[index], direction).host == source.host then
               local lane = list[index].lanes[direction]
               for at = lane.count, max(1, lane.count - MAX_LOOKED_AT), -1 do
                  local copy = lane.messages[at]
                  if copy ~= message and key_of(copy.raw) == key_of(message.raw) then
                     return copy
                  end
               end
            end
         end
      end
      return nil
   end

   local function note_ping(message, lane, other)
      if message.kind == "ping" or message.kind == "probe" then
         local queue = lane.pings[message.sport]
         if not queue then
            queue = {}
            lane.pings[message.sport] = queue
         end
         if #queue < MAX_PINGS then
            insert(queue, message)
         end
      elseif message.kind == "pong" or message.kind == "probe-reply" then
         local queue = other.pings[message.dport]
         local ping = queue and remove(queue, 1)
         if ping then
            message.request, ping.response = ping.frame, message.frame
            message.response_time = message.frame.time - ping.frame.time
         end
      end
   end

   -- Which ports a congestion bitmap marks, and what changed since the last one of this direction.
   local function note_bitmap(message)
      local stream = message.stream
      if #message.payload ~= BITMAP_BYTES then
         return
      end
      local source, target = ends_of(stream, message.direction)
      local maps = stream.pair.maps or {}
      stream.pair.maps = maps
      local name = source.host .. ">" .. target.host
      local before = maps[name] or { raw = rep("\0", BITMAP_BYTES), ports = {} }
      if message.payload == before.raw then
         message.ports = before.ports
      else
         message.ports = congested_ports(message.payload)
         local now, old = {}, {}
         for _, port in ipairs(message.ports) do
            now[port] = true
         end
         message.set, message.cleared = {}, {}
         for _, port in ipairs(before.ports) do
            old[port] = true
            if not now[port] then
               insert(message.cleared, port)
            end
         end
         for _, port in ipairs(message.ports) do
            if not old[port] then
               insert(message.set, port)
            end
         end
      end
      maps[name] = { raw = message.payload, ports = message.ports }
   end

   function analyse(message)
      local lane = message.lane
      local stream, kind = lane.stream, message.kind
      local other = stream.lanes[1 - lane.direction]
      if kind == "probe" or kind == "probe-reply" then
         hear_probe(message)
      end
      local numbered = message.numbered
      message.expected = lane.expected
      if kind == "congestion" then
         note_bitmap(message)
      elseif kind ~= "data" then
         note_ping(message, lane, other)
      end
      if numbered and has(message.flags, RETRANSMITTED) then
         local original = original_of(message)
         message.original = original and original.frame
      end
      check_message(message, lane)
      if numbered then
         lane.expected = message.sequence + 1
      end
   end

   -- The first ordinary data message of a lane after those before it needs no more checks: `raw` is its header.
   function is_next(lane, raw, position)
      return position == lane.finish
         and lane.new
         and lane.numbered_segment == (lane.segment or 0)
         and byte(raw, 25) == 0
         and u64(raw, 1) == lane.highest + 1
         and u16(raw, 21) > PROBE_PORT
         and u16(raw, 23) > 0
         and sub(raw, 33, 48) == NO_EXTENSIONS
         and u32(raw, 17) <= MAX_MESSAGE_BYTES
   end

   -- The peer has taken everything before `position`: a stream offset over TCP, a sequence over InfiniBand.
   function acknowledged(stream, direction, position, now)
      local lane = stream.lanes[direction]
      if position <= lane.acked then
         return
      end
      lane.acked = position
      local messages, index, tcp = lane.messages, lane.unacked, stream.tcp
      local last, count = nil, 0
      while index <= lane.count do
         local message = messages[index]
         if (tcp and message.finish or message.sequence) > position then
            break
         end
         last, count = message, count + 1
         index = index + 1
      end
      lane.unacked = index
      local count_of_acks = #lane.ack_positions + 1
      lane.ack_positions[count_of_acks], lane.ack_frames[count_of_acks] = position, now.number
      if last then
         insert(shows(now, "acks"), { last = last, count = count })
      end
   end

   -- The number of the frame that acknowledged a message, nil where none has.
   function acknowledging_frame(message)
      local lane = message.lane
      local wanted = message.tcp and message.finish or message.sequence
      if not message.tcp and wanted == 0 then
         return nil
      end
      local low, high = 1, #lane.ack_positions + 1
      while low < high do
         local middle = floor((low + high) / 2)
         if lane.ack_positions[middle] >= wanted then
            high = middle
         else
            low = middle + 1
         end
      end
      return lane.ack_frames[low]
   end

   -- The path of a message, as it was known when the message came.
   function path_at(message)
      return path_of(message.stream, message.number)
   end
end

-- The rules of `rdstool validate` that one message, or one stream, can break; under the same ids.

local private_fields, reject_code
do
   local PORTLESS = { ping = true, pong = true, probe = true, ["probe-reply"] = true }
   local EXTENSION_NAMES = {}
   for kind, extension in pairs(EXTENSIONS) do
      EXTENSION_NAMES[kind] = extension.name
   end

   local function say(subject, rule, text, severity)
      local findings = subject.findings
      if not findings then
         findings = {}
         subject.findings = findings
      end
      insert(findings, { rule = rule, text = text, severity = severity })
   end

   local function hex(raw)
      return (raw:gsub(".", function(one)
         return format("%02x", byte(one))
      end))
   end

   local function check_header(message)
      local raw, flags, kind, tcp = message.raw, message.flags, message.kind, message.tcp
      if message.length > MAX_MESSAGE_BYTES then
         say(message, "RDS-HDR-002", format("h_len is %.0f bytes", message.length))
      end
      if sub(raw, 27, 30) ~= ZERO4 then
         say(message, "RDS-HDR-003", "padding is " .. hex(sub(raw, 27, 30)))
      end
      local unknown = flags >= 0x40
      if unknown then
         say(message, "RDS-HDR-004", format("flags are 0x%02x", flags))
      end
      if kind == "heartbeat" or (not unknown and is_heartbeat(flags)) then
         say(message, "RDS-HDR-004", format("flags 0x%02x: heartbeat of UEK", flags), "note")
      end
      local checksum = u16(raw, 31)
      if message.status == "bad" then
         local text = format("h_csum is 0x%04x and does not verify", checksum)
         say(message, "RDS-HDR-005", text, tcp and "warning" or nil)
      elseif message.status == "absent" and not tcp then
         say(message, "RDS-HDR-006", "h_csum is 0 in a frame of this message")
      elseif tcp and checksum ~= 0 then
         say(message, "RDS-HDR-007", format("h_csum is 0x%04x", checksum))
      end
      if tcp then
         if sub(raw, 9, 16) ~= ZERO8 or byte(raw, 26) ~= 0 then
            say(message, "RDS-HDR-008", format("h_ack is %s, h_credit %d", whole(u64(raw, 9)), byte(raw, 26)))
         end
         if not (TCP_FLAGS[flags] or has(flags, CONG_BITMAP) or unknown or is_heartbeat(flags)) then
            say(message, "RDS-HDR-009", format("flags are 0x%02x", flags))
         end
      end
      local data = kind == "data" and not has(flags, CONG_BITMAP)
      local ports = format("%d to %d", message.sport, message.dport)
      if data and message.sport == 0 then
         say(message, "RDS-HDR-010", "data from port " .. ports)
      end
      if message.sport == PROBE_PORT and message.dport ~= 0 and (data or (not tcp and kind == "ping")) then
         say(message, "RDS-HDR-011", "data from port " .. ports)
      end
      if PORTLESS[kind] and message.length ~= 0 then
         say(message, "RDS-HDR-012", format("%s with %.0f bytes of payload", kind, message.length))
      end
   end

   local function check_extension_form(message, parsed, field)
      if parsed.problem then
         say(message, "RDS-EXT-001", parsed.problem)
      elseif find(field, "[^\0]", parsed.used + 1) then
         say(message, "RDS-EXT-002", "behind the terminator stands " .. hex(sub(field, parsed.used + 1)))
      end
      local counts, told = {}, {}
      for _, item in ipairs(parsed.items) do
         counts[item.type] = (counts[item.type] or 0) + 1
      end
      for _, item in ipairs(parsed.items) do
         local name = EXTENSION_NAMES[item.type] or format("type %d", item.type)
         if counts[item.type] > 1 and not told[item.type] then
            told[item.type] = true
            say(message, "RDS-EXT-003", format("%s occurs %d times", name, counts[item.type]))
         end
         if not item.extension or item.extension.uncommon then
            say(message, "RDS-EXT-004", name .. " is present")
         end
      end
   end

   local function check_extensions_over_tcp(message, parsed)
      local shake = message.kind == "probe" or message.kind == "probe-reply"
      local seen = {}
      local npaths
      for _, item in ipairs(parsed.items) do
         local extension = item.extension
         if extension and not seen[item.type] then
            seen[item.type] = true
            if extension.handshake and not shake then
               say(message, "RDS-EXT-005", format("%s in a %s message", extension.name, message.kind))
            elseif extension.rdma then
               say(message, "RDS-EXT-010", extension.name .. " over TCP")
            end
         end
         if item.type == EXT.NPATHS then
            npaths = u16(item.raw, 1)
         end
      end
      if not shake or parsed.problem then
         return
      end
      if not npaths or npaths == 0 then
         say(message, "RDS-EXT-006", message.kind .. (npaths and " with NPATHS 0" or " with no NPATHS"))
      elseif npaths > MAX_PATHS then
         say(message, "RDS-EXT-006", format("NPATHS is %d, receivers cap it at 8", npaths), "note")
      end
   end

   local function check_extensions_over_ib(message, parsed)
      local flagged = has(message.flags, EXTHDR_EXTENSION)
      local rdma, dest, amount = false, false, false
      for _, item in ipairs(parsed.items) do
         if item.type == EXT.RDMA then
            rdma = true
         elseif item.type == EXT.RDMA_DEST then
            dest = true
            if u32(item.raw, 5) >= 4096 then
               say(message, "RDS-RDM-006", format("offset is %d", u32(item.raw, 5)))
            end
         elseif item.type == EXT.RDMA_BYTES then
            amount = true
            local direction, pad = byte(item.raw, 5), sub(item.raw, 6, 8)
            if not rdma then
               say(message, "RDS-EXT-009", "RDMA_BYTES without RDMA before it")
            elseif direction ~= 1 and direction ~= 2 then
               say(message, "RDS-EXT-009", format("direction of RDMA_BYTES is %d", direction))
            elseif pad ~= "\0\0\0" then
               say(message, "RDS-EXT-009", "pad of RDMA_BYTES is " .. hex(pad))
            end
         end
      end
      if amount ~= flagged and not parsed.problem then
         local there = flagged and "there is no RDMA_BYTES" or "RDMA_BYTES is present"
         say(message, "RDS-EXT-008", format("flag 0x20 is %s, but %s", flagged and "set" or "clear", there))
      end
      if rdma and dest then
         say(message, "RDS-EXT-011", "both are present")
      end
      if rdma and has(message.flags, RETRANSMITTED) and message.numbered then
         say(message, "RDS-RTX-005", format("sequence %s is resent with RDMA", whole(message.sequence)))
      end
   end

   -- Whether no hole lies between this message and the one before it on its stream.
   local function follows(message, lane)
      local before = lane.finish or (message.stream.from_start and 0 or -1)
      local joined
      if message.tcp then
         joined = message.position == before
         lane.finish = message.finish
      else
         joined = not message.inferred and (lane.known or message.stream.from_start)
      end
      if not joined then
         lane.segment = (lane.segment or 0) + 1
      end
      lane.known = true
   end

   -- What a message announces, against the RDMA operations that came before it.
   local function check_operations(message, parsed, lane)
      local operations = message.operations
      if not operations or not operations[1] then
         return
      end
      -- Behind a hole, others may have come before these.
      local known = message.numbered and (lane.numbered_segment or 0) == (lane.segment or 0)
      local total, moves = 0, {}
      for _, operation in ipairs(operations) do
         total = total + operation.length
         known = known and not operation.cut
         moves[operation.kind == "rdma-write" and 1 or operation.kind == "rdma-read" and 2 or 0] = true
      end
      if total > MAX_MESSAGE_BYTES then
         say(message, "RDS-RDM-005", format("%.0f bytes in %d operations", total, #operations))
      end
      local raw, key = extension_of(parsed, EXT.RDMA_BYTES), extension_of(parsed, EXT.RDMA)
      if raw and key and known then
         if u32(raw, 1) ~= total then
            say(message, "RDS-RDM-002", format("RDMA_BYTES is %d, the operations moved %.0f bytes", u32(raw, 1), total))
         end
         local direction = byte(raw, 5)
         if (moves[1] or moves[2]) and (direction == 1 or direction == 2) and not moves[direction] then
            local said = direction == 1 and "WRITE" or "READ"
            say(message, "RDS-RDM-003", format("RDMA_BYTES says %s, the operation was a %s", said, operations[1].kind))
         end
      end
   end

   local function check_extensions(message, lane)
      local field = sub(message.raw, 33, 48)
      if field == NO_EXTENSIONS then
         if has(message.flags, EXTHDR_EXTENSION) and not message.tcp then
            say(message, "RDS-EXT-008", "flag 0x20 is set, but there is no RDMA_BYTES")
         end
         return
      end
      local parsed = parse_extensions(field)
      check_extension_form(message, parsed, field)
      if message.tcp then
         check_extensions_over_tcp(message, parsed)
      else
         check_extensions_over_ib(message, parsed)
         check_operations(message, parsed, lane)
      end
   end

   local function check_bitmap(message)
      local flags = message.flags
      if flags ~= CONG_BITMAP then
         say(message, "RDS-CNG-002", format("flags are 0x%02x", flags))
         return
      end
      if message.length ~= BITMAP_BYTES then
         say(message, "RDS-CNG-001", format("h_len is %.0f", message.length))
      end
      local extended = sub(message.raw, 33, 48) ~= NO_EXTENSIONS
      if message.sport ~= 0 or message.dport ~= 0 or extended then
         local ports = format("ports %d to %d", message.sport, message.dport)
         say(message, "RDS-CNG-003", format("%s, extensions %s", ports, extended and "yes" or "no"))
      end
   end

   local function check_sequence(message, lane)
      local sequence, flags = message.sequence, message.flags
      if not message.numbered then
         if (message.kind == "ack" or flags == CONG_BITMAP) and sequence ~= 0 then
            say(message, "RDS-SEQ-004", format("%s with sequence %s", message.kind, whole(sequence)))
         end
         return
      end
      if sequence == 0 then
         say(message, "RDS-SEQ-001", message.kind .. " number 0")
      end
      local joined = lane.numbered_segment == (lane.segment or 0)
      if not joined then
         lane.highest, lane.new = -1, false
      end
      if has(flags, RETRANSMITTED) then
         if joined and lane.new then
            local text = "sequence %s is flagged, but new messages came before it on this connection"
            say(message, "RDS-RTX-003", format(text, whole(sequence)))
         elseif joined and sequence <= lane.previous then
            say(message, "RDS-RTX-003", format("sequence %s is resent behind a higher one", whole(sequence)))
         end
         if not message.tcp and not has(flags, ACK_REQUIRED) then
            say(message, "RDS-RTX-004", format("flags are 0x%02x", flags))
         end
      else
         if joined and lane.highest >= 0 and sequence > 0 then
            if sequence <= lane.highest then
               local text = "sequence %s without RETRANSMITTED, but %s was sent before it"
               say(message, "RDS-SEQ-002", format(text, whole(sequence), whole(lane.highest)))
            elseif sequence > lane.highest + 1 then
               local text = "sequences %s to %s were not sent"
               say(message, "RDS-SEQ-003", format(text, whole(lane.highest + 1), whole(sequence - 1)))
            end
         end
         lane.new = true
      end
      lane.previous, lane.numbered_segment = sequence, lane.segment or 0
      lane.highest = max(lane.highest, sequence)
   end

   local function check_acknowledgement(message, lane)
      if message.tcp then
         return
      end
      if message.kind == "ack" and (message.flags ~= 0 or sub(message.raw, 33, 48) ~= NO_EXTENSIONS) then
         say(message, "RDS-ACK-003", format("flags are 0x%02x", message.flags))
      end
      if message.status == "bad" then
         return -- A receiver looks at nothing else of it.
      end
      local before = lane.latest_ack or -1
      -- A message has the acknowledgement of the time when it began; ack-only frames may stand between its fragments.
      if message.ack < before and message.first.number > lane.acks_until then
         say(message, "RDS-ACK-001", format("h_ack is %s after %s", whole(message.ack), whole(before)))
      end
      lane.latest_ack, lane.acks_until = message.ack, message.frame.number
   end

   function check_message(message, lane)
      follows(message, lane)
      check_header(message)
      check_extensions(message, lane)
      if has(message.flags, CONG_BITMAP) then
         check_bitmap(message)
         for _, port in ipairs(message.ports or {}) do
            if port > PROBE_PORT then
               break
            end
            say(message, "RDS-CNG-006", format("port %d is marked", port))
         end
      end
      check_sequence(message, lane)
      check_acknowledgement(message, lane)
   end

   -- Findings about a SEND that is no message by itself are shown in the frame that completed it.
   local function say_in_frame(flow, rule, text, frame, now)
      local part = { stream = flow.stream, direction = flow.direction }
      say(part, rule, text)
      show_part_in(flow.patient and frame or now, part)
   end

   -- A header without what may differ between fragments of a message: credit and checksum.
   local function rest_of(raw)
      return sub(raw, 1, 25) .. sub(raw, 27, 30) .. sub(raw, 33)
   end

   -- `unit` is a SEND, and the next fragment of `message`; nil where it is too short for a header.
   function check_fragment(flow, unit, message, frame, now)
      if unit.opcode ~= 0x02 and unit.opcode ~= 0x04 then
         say_in_frame(flow, "RDS-FRG-001", format("opcode 0x%02x", unit.opcode), frame, now)
      end
      if not message then
         say_in_frame(flow, "RDS-HDR-001", format("a SEND of %d bytes", unit.length), frame, now)
         return
      end
      local data, first = unit.length - HEADER_BYTES, message.fragments == 0
      if first then
         message.fragment_bytes = (data == 8192 or data == MAX_FRAGMENT_BYTES) and data or FRAGMENT_BYTES
      end
      local size, number = message.fragment_bytes, message.fragments + 1
      local same = unit.header == message.raw
      local foreign = not same and key_of(unit.header) ~= message.key
      if data > size then
         say_in_frame(flow, "RDS-FRG-002", format("%d bytes of data in a fragment", data), frame, now)
      elseif foreign then
         say_in_frame(flow, "RDS-FRG-004", format("fragment %d", number), frame, now)
      elseif message.sure and not message.inferred and not message.odd_size then
         local due = max(0, min(message.length - message.total, size))
         if data ~= due then
            message.odd_size = true
            say_in_frame(flow, "RDS-FRG-003", format("fragment %d has %d bytes", number, data), frame, now)
         end
      end
      if foreign and data > size then
         say_in_frame(flow, "RDS-FRG-004", format("fragment %d", number), frame, now)
      end
      if not (same or foreign) and rest_of(unit.header) ~= rest_of(message.raw) then
         say_in_frame(flow, "RDS-FRG-005", format("fragment %d", number), frame, now)
      end
      local credit = byte(unit.header, 26)
      if not first and credit ~= 0 and message.last_credit ~= 0 and not message.granted_again then
         message.granted_again = true
         say_in_frame(flow, "RDS-CRD-003", format("fragment %d grants again", number), frame, now)
      end
      message.last_credit = credit
   end

   -- RDMA-CM.

   local RETRY_COUNT, RNR_RETRY, CONSUMER = 1, 7, 28

   local function is_v4(raw)
      local upper = sub(raw, 1, 12)
      return upper == rep("\0", 12) or upper == MAPPED
   end

   function private_fields(message)
      local raw, at = message.private, message.version == 4 and 8 or 32
      local half = at / 2
      return {
         saddr = sub(raw, 1, half),
         daddr = sub(raw, half + 1, at),
         major = byte(raw, at + 1),
         minor = byte(raw, at + 2),
         mask = u16(raw, at + 3),
         tos = byte(raw, at + 5),
         reserved = byte(raw, at + 6),
         fragment_size = u16(raw, at + 7),
         ack_seq = u64(raw, at + 9),
         credit = u32(raw, at + 17),
         tail = u32(raw, at + 21),
      }
   end

   local function check_private(message, raw, what)
      if not message.private then
         say(message, "RDS-CMR-003", format("%s: %s", what, message.problem or "no private data of RDS"))
         return nil
      end
      local private = private_fields(message)
      if private.major == 0 then
         say(message, "RDS-CMR-003", what .. ": major version is 0")
      end
      if private.fragment_size ~= 0 then
         say(message, "RDS-CMR-008", format("%s: fragment size %d (UEK)", what, private.fragment_size))
      end
      if private.reserved ~= 0 or private.tail ~= 0 or find(raw, "[^\0]", #message.private + 1) then
         say(message, "RDS-CMR-008", what .. ": reserved or tail bytes are not zero")
      end
      if private.ack_seq ~= 0 or private.credit ~= 0 then
         say(message, "RDS-CMR-009", format("%s: ack_seq %s, credit %d", what, whole(private.ack_seq), private.credit))
      end
      return private
   end

   local function check_request(message)
      local body, ip = message.body, message.ip
      local service = u16(body, 15)
      local v4 = is_v4(sub(ip, 5, 20)) and is_v4(sub(ip, 21, 36))
      if (message.version == 4) ~= v4 then
         local family = v4 and "IPv4" or "IPv6"
         say(message, "RDS-CMR-001", format("service port %d with %s addresses", service, family))
         message.unreadable = true
         return
      end
      local ip_version = floor(byte(ip, 2) / 16)
      if byte(ip, 1) ~= 0 or ip_version ~= (v4 and 4 or 6) then
         local text = "header version %d, IP version %d to port %d"
         say(message, "RDS-CMR-002", format(text, byte(ip, 1), ip_version, service))
      end
      local found = {}
      local transport, retry, rnr = floor(byte(body, 44) / 2) % 4, byte(body, 48) % 8, byte(body, 51) % 8
      if transport ~= 0 then
         insert(found, format("transport service %d", transport))
      end
      if retry ~= RETRY_COUNT then
         insert(found, format("retry count %d", retry))
      end
      if rnr ~= RNR_RETRY then
         insert(found, format("RNR retry %d", rnr))
      end
      if found[1] then
         say(message, "RDS-CMR-010", concat(found, ", "))
      end
      local private = check_private(message, sub(body, 141 + 36), "request")
      message.said = private
      if not private or private.major == 0 then
         return
      end
      if not (private.major == 3 and private.minor == 1) and not (private.major == 4 and private.mask % 4 ~= 0) then
         local text = "version %d.%d, mask 0x%04x"
         say(message, "RDS-CMR-004", format(text, private.major, private.minor, private.mask))
      end
      local size = #private.saddr
      if sub(ip, 21 - size, 20) ~= private.saddr or sub(ip, 37 - size, 36) ~= private.daddr then
         say(message, "RDS-CMR-006", "RDS addresses differ from those of the IP header")
      end
   end

   local function check_reply(message)
      local request = message.exchange.request
      if request.unreadable then
         return
      end
      local private = check_private(message, sub(message.body, 37), "reply")
      local rnr = floor(byte(message.body, 28) / 32)
      if rnr ~= RNR_RETRY then
         say(message, "RDS-CMR-010", format("RNR retry %d in the reply", rnr))
      end
      local asked = request.said
      request.said = nil
      if not asked or asked.major == 0 or not private or private.major == 0 then
         return
      end
      local fits = private.major == asked.major and private.minor == asked.minor
      if asked.major == 4 then
         local common = asked.mask % 4
         fits = private.major == 4 and private.minor == (common >= 2 and 1 or 0)
      end
      if not fits then
         local text = "%d.%d for %d.%d"
         say(message, "RDS-CMR-005", format(text, private.major, private.minor, asked.major, asked.minor))
      end
      if private.saddr ~= asked.daddr or private.daddr ~= asked.saddr then
         say(message, "RDS-CMR-006", "the reply's addresses are not those of the request, swapped")
      end
      if private.tos ~= asked.tos then
         say(message, "RDS-CMR-007", format("TOS %d for %d", private.tos, asked.tos))
      end
   end

   function reject_code(raw)
      local a, b, c, d = byte(raw, 1, 4)
      return min(((a * 256 + b) * 256 + c) * 256 + d, ((d * 256 + c) * 256 + b) * 256 + a)
   end

   local function check_reject(message)
      local reason = u16(message.body, 11)
      local text = "reason " .. (REJECT_REASONS[reason] or whole(reason))
      if reason == CONSUMER then
         local code = reject_code(sub(message.body, 85, 88))
         local meanings = { [0] = "no data", [1] = "incompatible version or crossing requests" }
         text = text .. ": " .. (meanings[code] or format("0x%08x", code))
      end
      say(message, "RDS-CMR-011", text)
   end

   function check_cm(message)
      if message.attribute == REQ and not message.cut then
         check_request(message)
      elseif message.attribute == REP and not message.cut then
         check_reply(message)
      elseif message.attribute == REJ then
         check_reject(message)
      end
   end
end

-- What a message is, in plain words: for the info column and the tree.

local headline, cm_words
do
   local NAMED_PORTS = 8

   local function join_ports(ports)
      local named = concat(ports, ", ", 1, min(#ports, NAMED_PORTS))
      if #ports > NAMED_PORTS then
         named = format("%s and %d more", named, #ports - NAMED_PORTS)
      end
      return (#ports == 1 and "port " or "ports ") .. named
   end

   local function bitmap_words(message)
      local ports = message.ports
      if not ports then
         return "bitmap not seen whole"
      elseif not ports[1] then
         return message.cleared and message.cleared[1] and "no port congested any more" or "no port congested"
      end
      return join_ports(ports) .. " congested"
   end

   local function handshake_words(parsed)
      local npaths, generation = extension_of(parsed, EXT.NPATHS), extension_of(parsed, EXT.GEN_NUM)
      local words = npaths and "supports " .. plural(u16(npaths, 1), "path") or "single path"
      if generation then
         words = format("%s, generation 0x%x", words, u32(generation, 1))
      end
      return words
   end

   local function extension_words(words, message, parsed)
      for _, item in ipairs(parsed.items) do
         if item.type == EXT.RDMA then
            local moved = extension_of(parsed, EXT.RDMA_BYTES)
            local verb, size = "RDMA", nil
            local first = message.operations and message.operations[1]
            if moved then
               verb = byte(moved, 5) == 1 and "RDMA write" or byte(moved, 5) == 2 and "RDMA read" or verb
               size = u32(moved, 1)
            elseif first then
               verb, size = first.kind:gsub("rdma%-", "RDMA "), 0
               for _, operation in ipairs(message.operations) do
                  size = size + operation.length
               end
            end
            local of = size and " of " .. plural(size, "byte") or ""
            insert(words, format("message follows %s%s with key 0x%x", verb, of, u32(item.raw, 1)))
         elseif item.type == EXT.RDMA_DEST then
            insert(words, format("offers memory with key 0x%x", u32(item.raw, 1)))
         end
      end
      if parsed.problem then
         insert(words, "extension headers: " .. parsed.problem)
      end
   end

   -- What is special about a message; an ordinary one has no words.
   local function words_for(message)
      local words = {}
      if has(message.flags, RETRANSMITTED) then
         insert(words, message.original and format("resent, first in frame %d", message.original.number) or "resent")
      end
      local kind, field = message.kind, sub(message.raw, 33, 48)
      local parsed = parse_extensions(field)
      if kind == "congestion" then
         insert(words, bitmap_words(message))
      elseif kind == "probe" or kind == "probe-reply" then
         insert(words, handshake_words(parsed))
      elseif kind == "ack" then
         insert(words, "acknowledges up to " .. whole(message.ack))
      end
      if field ~= NO_EXTENSIONS then
         extension_words(words, message, parsed)
      end
      if byte(message.raw, 26) ~= 0 then
         insert(words, "grants " .. plural(byte(message.raw, 26), "credit"))
      end
      if not message.complete and kind ~= "ack" then
         insert(words, format("incomplete: %.0f of %.0f bytes captured", message.seen, message.length))
      end
      if message.status == "bad" then
         insert(words, "header checksum wrong")
      end
      if message.inferred then
         insert(words, "found by search")
      end
      if message.late then
         insert(words, format("complete in frame %d", message.frame.number))
      end
      return concat(words, ", ")
   end

   function headline(message)
      local text = format(
         "%s %d → %d Seq=%.0f Len=%.0f",
         message.kind,
         message.sport,
         message.dport,
         message.sequence,
         message.length
      )
      if message.kind == "data" and message.regular then
         return text
      end
      local words = words_for(message)
      return words == "" and text or text .. ", " .. words
   end

   function cm_words(message)
      local words = { "RDMA-CM " .. message.name }
      if message.private then
         local said = private_fields(message)
         insert(words, format("RDS %d.%d", said.major, said.minor))
         if said.tos ~= 0 then
            insert(words, format("TOS %d", said.tos))
         end
      end
      if message.attribute == REQ or message.attribute == REP then
         insert(words, format("queue pair 0x%x", u24(message.body, message.attribute == REQ and 33 or 13)))
      elseif message.attribute == REJ then
         insert(words, format("reason %d", u16(message.body, 11)))
      end
      if message.problem then
         insert(words, message.problem)
      end
      return concat(words, ", ")
   end
end

-- The tree. Nothing is added that nobody looks at: neither the tree on the screen nor a filter, column or tap.

local show_frame
do
   -- Who reads payload: the dissector of its destination port, else the one that "Decode As" has for all ports; for single
   -- ones it has none in a table that Lua made. 4.0 has no call for the one that it has.
   local rds_port = DissectorTable.new("rds.port", "RDS port", ftypes.UINT16, base.DEC, rds)
   -- Neither has a call that tells whether there is one, and to offer each message costs a tenth of tshark's time: that waits
   -- until another script has asked for the table, as it has to before it can enter a dissector.
   local rds_payload
   if is_wireshark(4, 4) then
      local made = DissectorTable.new("rds.payload", "RDS payload", ftypes.NONE, base.NONE, rds)
      local get = DissectorTable.get
      function DissectorTable.get(name)
         if name == "rds.payload" then
            rds_payload = made
         end
         return get(name)
      end
   end

   -- How fields are added to one frame's tree: `add(tree, name, ...)`, with `generated` and `hidden` after it.
   local add

   local function add_always(tree, name, ...)
      return tree:add(fields[name], ...)
   end

   local function add_referenced(tree, name, ...)
      if referenced(tree, fields[name]) then
         return tree:add(fields[name], ...)
      end
      return nil
   end

   local function generated(tree, name, ...)
      local item = add(tree, name, ...)
      if item then
         item:set_generated()
      end
      return item
   end

   local function hidden(tree, name, ...)
      local item = add(tree, name, ...)
      if item then
         item:set_generated()
         item:set_hidden()
      end
   end

   local function uint64(number)
      local low = number % TWO32
      return UInt64.new(floor(low), floor((number - low) / TWO32))
   end

   local function span_of_time(seconds)
      local sign = seconds < 0 and -1 or 1
      local nanoseconds = floor(seconds * sign * 1e9 + 0.5)
      local rest = nanoseconds % 1000000000
      return NSTime.new(sign * floor((nanoseconds - rest) / 1000000000), sign * floor(rest))
   end

   -- Expert items of the groups that are switched on.
   local function add_findings(tree, subject)
      for _, finding in ipairs(subject.findings or {}) do
         local rule = RULES[finding.rule]
         if rds.prefs[rule.group] then
            local expert = experts[finding.rule .. "/" .. (finding.severity or rule.severity)]
            tree:add_proto_expert_info(expert, finding.rule .. ": " .. finding.text)
         end
      end
   end

   local function add_ends(tree, transport, src, dst)
      generated(tree, "rds.transport", transport)
      generated(tree, "rds.src", src)
      generated(tree, "rds.dst", dst)
      hidden(tree, "rds.addr", src)
      hidden(tree, "rds.addr", dst)
   end

   local function add_stream_fields(tree, stream, direction)
      local source, target = ends_of(stream, direction)
      add_ends(tree, stream.transport, source.host, target.host)
      generated(tree, "rds.connection", stream.pair.name)
      generated(tree, "rds.stream", stream.number)
      generated(tree, "rds.direction", direction)
   end

   local function add_flags(tree, flags, range)
      local item, set = add(tree, "rds.flags", range), {}
      for _, row in ipairs(FLAG_FIELDS) do
         add(item or tree, row[1], range)
         if has(flags, row[2]) then
            insert(set, row[3])
         end
      end
      if item and set[1] then
         item:append_text(format(" (%s)", concat(set, ", ")))
      end
   end

   local function add_checksum(tree, message, range)
      local item = add(tree, "rds.checksum", range)
      if item then
         item:append_text(message.status == "absent" and " [unverified: none]" or format(" [%s]", message.status))
      end
      generated(tree, "rds.checksum.status", range, message.status)
   end

   local function add_extensions(tree, message, range)
      local parsed = parse_extensions(sub(message.raw, 33, 48))
      local item = add(tree, "rds.exthdr", range) or tree
      for _, one in ipairs(parsed.items) do
         local extension = one.extension
         local branch = item
         if extension and extension.field then
            branch = add(item, extension.field, range(one.at, 1 + extension.size)) or item
         end
         generated(branch, "rds.exthdr.type", range(one.at, 1))
         for _, row in ipairs(extension and extension.fields or {}) do
            add(branch, row[1], range(one.at + 1 + row[2], row[3]))
         end
      end
      if parsed.problem then
         generated(item, "rds.exthdr.problem", parsed.problem)
      end
   end

   local function add_ports(tree, message)
      if not message.ports then
         return
      end
      local function list(name, ports, text)
         for _, port in ipairs(ports or {}) do
            local item = generated(tree, name, port)
            if item and text then
               item:append_text(text)
            end
         end
      end
      local new = {}
      for _, port in ipairs(message.set or {}) do
         new[port] = true
      end
      for _, port in ipairs(message.ports) do
         local item = generated(tree, "rds.congested", port)
         if item and new[port] then
            item:append_text(" (new)")
         end
      end
      list("rds.congested.set", message.set)
      list("rds.congested.cleared", message.cleared)
   end

   local function add_links(tree, message)
      generated(tree, "rds.frame", message.frame.number)
      if message.first.number ~= message.frame.number then
         generated(tree, "rds.first_frame", message.first.number)
      end
      if message.numbered and message.expected then
         local item = generated(tree, "rds.expected", uint64(message.expected))
         if item and message.expected ~= message.sequence then
            item:append_text(" (this is another)")
         end
      end
      if message.original then
         generated(tree, "rds.retransmission_of", message.original.number)
      end
      if message.request then
         generated(tree, "rds.request_in", message.request.number)
         generated(tree, "rds.response_time", span_of_time(message.response_time))
      end
      if message.response then
         generated(tree, "rds.response_in", message.response.number)
      end
      local acked = acknowledging_frame(message)
      if acked and acked >= message.frame.number then
         generated(tree, "rds.acked_in", acked)
      end
      for _, operation in ipairs(message.operations or {}) do
         generated(tree, "rds.rdma.announced", operation.id)
      end
   end

   local function add_header(tree, message, range)
      for _, row in ipairs(HEADER_FIELDS) do
         local name, part = row[1], range(row[2], row[3])
         if name == "rds.flags" then
            add_flags(tree, message.flags, part)
         elseif name == "rds.checksum" then
            add_checksum(tree, message, part)
         elseif name == "rds.exthdr" then
            add_extensions(tree, message, part)
         else
            add(tree, name, part)
         end
      end
      hidden(tree, "rds.port", range(20, 2))
      hidden(tree, "rds.port", range(22, 2))
   end

   -- Bytes that do not lie in this frame as they are.
   local function bytes_range(raw)
      return ByteArray.new(raw, true):tvb("RDS")()
   end

   -- The bytes of a message from its header on: where they lie in this frame, or put together.
   local function bytes_of(message, tvb)
      if message.at and tvb and message.at + HEADER_BYTES + message.seen <= tvb:len() then
         return tvb(message.at, HEADER_BYTES + message.seen)
      end
      local parts = parts_of(message) or { message.payload }
      parts[0] = message.raw
      return ByteArray.new(concat(parts, "", 0), true):tvb("RDS message")()
   end

   local function add_message_tree(message, root, range)
      local tree = root:add(rds, range)
      tree:append_text(format(" (%s), ", message.tcp and "TCP" or "InfiniBand") .. headline(message))
      generated(tree, "rds.number", message.number)
      generated(tree, "rds.kind", message.kind)
      add_stream_fields(tree, message.stream, message.direction)
      local path = path_at(message)
      if path then
         generated(tree, "rds.path", path)
      end
      add_header(tree, message, range(0, HEADER_BYTES))
      generated(tree, "rds.fragments", message.fragments)
      generated(tree, "rds.seen", message.seen)
      generated(tree, "rds.complete", message.complete)
      generated(tree, "rds.inferred", message.inferred or false)
      hidden(tree, "rds.position", uint64(message.position))
      add_ports(tree, message)
      add_links(tree, message)
      if range:len() > HEADER_BYTES then
         add(tree, "rds.payload", range(HEADER_BYTES))
      end
      return tree
   end

   local function is_read(message)
      return message.kind == "data" and message.seen > 0 and (rds_payload or rds_port:get_dissector(message.dport))
   end

   -- The bytes of the message, where they are needed.
   local function show_message(message, tvb, root, wanted)
      if not (wanted or message.findings or is_read(message)) then
         return nil
      end
      local range = bytes_of(message, tvb)
      if wanted or message.findings then
         add_findings(add_message_tree(message, root, range), message)
      end
      return range
   end

   -- Last of all: in 4.0, what other dissectors throw takes with it all that was still to be shown of the frame.
   local function hand_on(messages, ranges, pinfo, root)
      for index, message in ipairs(messages) do
         if ranges[index] and is_read(message) then
            local payload = ranges[index](HEADER_BYTES):tvb()
            local dissector = rds_port:get_dissector(message.dport)
            if dissector then
               hand_over(call_dissector, dissector, payload, pinfo, root)
            else
               hand_over(try_table, rds_payload, "", payload, pinfo, root)
            end
         end
      end
   end

   -- What is no message by itself: segments and fragments on their way, and the ends of a stream.
   local function show_part(part, root)
      local tree = root:add(rds_part)
      local stream = part.stream
      if not (part.event or part.findings) then
         -- Most frames are such: one line has to do.
         generated(tree, "rds.stream", stream.number)
         return
      end
      add_stream_fields(tree, stream, part.direction)
      if part.event then
         tree:append_text(", " .. part.event)
         generated(tree, "rds.stream.event", part.event)
         generated(tree, "rds.stream.a", stream.a.host .. "/" .. stream.a.port)
         generated(tree, "rds.stream.b", stream.b.host .. "/" .. stream.b.port)
         generated(tree, "rds.stream.from_start", stream.from_start)
      end
      add_findings(tree, part)
   end

   local function show_acknowledgement(ack, frame, root)
      local tree = root:add(rds_part)
      generated(tree, "rds.acknowledges", ack.last.frame.number)
      generated(tree, "rds.acknowledges.count", ack.count)
      generated(tree, "rds.ack_time", span_of_time(frame.time - ack.last.frame.time))
   end

   local function show_operation(operation, root)
      local tree = root:add(rds_rdma)
      tree:set_generated()
      tree:append_text(format(", %s of %s: %s", operation.kind, plural(operation.length, "byte"), operation.status))
      generated(tree, "rds.kind", operation.kind)
      add_stream_fields(tree, operation.stream, operation.direction)
      generated(tree, "rds.frame", operation.frame.number)
      generated(tree, "rds.first_frame", operation.first.number)
      generated(tree, "rds.rdma.id", operation.id)
      generated(tree, "rds.rdma.kind", operation.kind)
      generated(tree, "rds.rdma.va", bytes_range(operation.va))
      for _, operand in ipairs(operation.operands or {}) do
         generated(tree, "rds.rdma.operand", bytes_range(operand))
      end
      hidden(tree, "rds.rdma.psn", uint64(operation.psn))
      generated(tree, "rds.rdma.rkey", operation.rkey)
      generated(tree, "rds.rdma.length", operation.length)
      generated(tree, "rds.rdma.seen", operation.seen)
      generated(tree, "rds.rdma.status", operation.status)
   end

   -- Fields of a structure of RDMA-CM; addresses are text, as filters compare them.
   local function add_structure(tree, layout, raw, range, v4)
      for _, row in ipairs(layout) do
         local name, offset, size, kind = row[1], row[2], row[3], row[4]
         if kind == "address" then
            local address = sub(raw, offset + 1, offset + size)
            add(tree, name, range(offset, size), address_text(v4 and sub(address, -4) or address))
         else
            add(tree, name, range(offset, size))
         end
      end
   end

   local function show_cm(message, root)
      local ip, private = message.ip or "", message.private or ""
      local data = #ip + #private > 0 and ip .. private or message.body
      local range = ByteArray.new(data, true):tvb("RDS private data")()
      local tree = root:add(rds_cm, range)
      tree:append_text(", " .. cm_words(message))
      generated(tree, "rds.kind", "cm")
      generated(tree, "rds.cm.message", message.name)
      hidden(tree, "rds.cm.transaction", bytes_range(message.transaction))
      hidden(tree, "rds.cm.bytes", bytes_range(message.body))
      add_ends(tree, "ib", message.src, message.dst)
      if message.stream then
         generated(tree, "rds.stream", message.stream.number)
      end
      if message.problem then
         generated(tree, "rds.cm.problem", message.problem)
      end
      if #ip > 0 then
         local branch = add(tree, "rds.cm.ip", range(0, #ip)) or tree
         add_structure(branch, CM_IP, ip, range(0, #ip), floor(byte(ip, 2) / 16) == 4)
      end
      if #private > 0 then
         local part = range(#ip, #private)
         local branch = add(tree, "rds.cm", part) or tree
         add_structure(branch, CM_PRIVATE[message.version].fields, private, part)
      end
      if message.reject then
         generated(tree, "rds.cm.code", reject_code(message.reject))
      end
      add_findings(tree, message)
   end

   -- Dissectors by name, once somebody asked for them: there are none yet while this script is read.
   local handles = setmetatable({}, {
      __index = function(known, name)
         known[name] = Dissector.get(name)
         return known[name]
      end,
   })

   -- Whether a filter, column or tap asks for a protocol or any of its fields.
   local function is_wanted(root, name)
      return referenced(root, handles[name])
   end

   -- Most frames hold but a part of a message: nothing is asked of Wireshark that need not be. Its columns keep what TCP or
   -- InfiniBand say there. That nobody looks at a new frame holds for the next one, too: where a filter, column or tap is
   -- added, Wireshark dissects the frames again that it had.
   local function show_only_part(part, root)
      local wanted = referenced(root, handles.rds)
      local asked = wanted or referenced(root, handles.rds_part)
      part_unwanted = not (asked or visited)
      if asked then
         add = wanted and root.visible and add_always or add_referenced
         show_part(part, root)
      end
   end

   local function show_parts(parts, root, wanted)
      wanted = wanted or is_wanted(root, "rds_part")
      for _, part in ipairs(parts) do
         if wanted or part.findings then
            show_part(part, root)
         end
      end
   end

   local function show_messages(messages, tvb, pinfo, root, wanted)
      local lines, ranges = {}, {}
      if not wanted and tvb then -- "Protocol Hierarchy" counts it, though nothing asks for it
         root:add(rds, tvb)
      elseif not wanted then
         root:add(rds)
      end
      for index, message in ipairs(messages) do
         lines[index] = headline(message)
         ranges[index] = show_message(message, tvb, root, wanted)
      end
      local columns = columns_of(pinfo)
      columns.protocol = "RDS"
      columns.info = concat(lines, "; ")
      return ranges
   end

   local function show_setup(messages, pinfo, root)
      local columns = columns_of(pinfo)
      columns.protocol = "RDS"
      for _, message in ipairs(messages) do
         columns.info = cm_words(message)
         show_cm(message, root)
      end
   end

   local function show_acks_and_operations(frame, root)
      for _, ack in ipairs(frame.acks or {}) do
         show_acknowledgement(ack, frame, root)
      end
      for _, operation in ipairs(frame.operations or {}) do
         show_operation(operation, root)
      end
   end

   -- Show what is known of a frame. `tvb` is what messages of this frame lie in.
   function show_frame(frame, tvb, pinfo, root)
      if frame.part then
         show_only_part(frame.part, root)
         return
      end
      local wanted = is_wanted(root, "rds") -- in a tree that is visible, everything is
      add = wanted and root.visible and add_always or add_referenced
      local messages, cm, parts = frame.messages, frame.cm, frame.parts
      local ranges = messages and show_messages(messages, tvb, pinfo, root, wanted)
      if cm then
         show_setup(cm, pinfo, root)
      end
      if parts then
         show_parts(parts, root, wanted)
      end
      if (frame.acks or frame.operations) and (wanted or is_wanted(root, "rds_rdma")) then
         show_acks_and_operations(frame, root)
      end
      if ranges then
         hand_on(messages, ranges, pinfo, root)
      end
   end
end

-- Where frames come from. A dissector on a TCP port sees neither retransmitted segments nor acknowledgements, and one on
-- `infiniband.payload` no packet numbers. So a watcher stands in front of Wireshark's own dissectors: it notes what passes,
-- and then lets them do their work. It stands at IP, where addresses, ports and payload lie in one string of bytes: each
-- of them costs more when Wireshark is asked. What IP has to put together or to unpack first is watched at TCP and UDP.
--
-- What dissectors throw at the end of a frame that was cut short, or for a bug of their own, Wireshark catches far outside:
-- it leaves the watcher in the middle, and Lua does not learn of it. Each time two calls more stay on its stack, which holds
-- 200. In time the watchers at IP give way to those at TCP and UDP, which see less of it; and before the stack is full, all of
-- them leave Wireshark's dissectors alone for good.

do
-- The frame that is dissected, and what all watchers do.

local watching = true
local tcp_ports = {}
-- The frame that is dissected: its number, what `read_segment` needs of it, what that has read, whether it is shown, and
-- whether the watcher at IP has seen what it carries.
local current, held, segment, done, taken = nil, {}, nil, false, false
local switched_on -- whether RDS is; nil until Wireshark has called its dissector, or has been asked to
local newest -- the highest number of a frame so far
local lost_frames = {} -- on which Wireshark's dissectors gave up

-- Most packets go where others went before. Their addresses and ports, as they lie behind one another in IPv4 without options
-- -> how these packets are taken and shown, whether all of one is read at once, and who they are for.
local IPV4_BYTES, ROUTE_FROM, ROUTE_TO = 20, 13, 24
local routes, route_count = {}, 0

local function remember_route(head, route)
   local MAX_ROUTES = 65536
   if route_count >= MAX_ROUTES then
      routes, route_count = {}, 0
   end
   routes[sub(head, ROUTE_FROM, ROUTE_TO)], route_count = route, route_count + 1
end

local function rds_tcp_port(port)
   return tcp_ports[port] or false
end

-- Let Wireshark's own dissector do its work.
local function pass_on(original, tvb, pinfo, tree)
   local fine, used = pcall(call_dissector, original, tvb, pinfo, tree)
   if fine then
      return used
   end
   gave_up(used)
   return captured_len(tvb)
end

-- With the preference `settle`, what still waits for frames that never came is shown once all frames were seen.
local function settle_at_end()
   if not at_end and rds.prefs.settle then
      at_end = true
      finish_tcp()
      finish_infiniband()
   end
end

-- Whether RDS is switched on: Wireshark calls no dissector of a protocol that is not. Where it has not called that of RDS
-- so far, it is asked to, with nothing, of which it shows nothing. `tvb` is of this frame.
local function is_switched_on(tvb, pinfo, root)
   if switched_on == nil then
      switched_on = false
      call_dissector(Dissector.get("rds"), tvb(0, 0):tvb(), pinfo, root)
      if not switched_on then
         shown[current] = nil
      end
   end
   return switched_on
end

local function show_once(tvb, pinfo, root)
   local frame = not done and shown[current]
   if frame then
      done = true
      if visited or not (part_unwanted and frame.part) then
         show_frame(frame, tvb, pinfo, root)
      end
   end
end

-- Show what no dissector has handed on to RDS. `watched` is what a watcher sees.
local function show_directly(watched, tvb, pinfo, root)
   if not done and shown[current] and is_switched_on(watched, pinfo, root) then
      show_once(tvb, pinfo, root)
   end
end

-- Whether a frame is shown before Wireshark dissects it: where that may end in the middle, and nothing may be missing.
local function shows_first()
   return at_end or lost_frames[current]
end

-- Let Wireshark's own dissector do its work on what is shown already. The columns are to stay as they are then.
local function pass_on_shown(original, tvb, pinfo, tree)
   local frame = done and shown[current]
   if not (frame and (frame.messages or frame.cm)) then
      return pass_on(original, tvb, pinfo, tree)
   end
   local columns = columns_of(pinfo)
   local protocol, info = tostring(columns.protocol), tostring(columns.info)
   local used = pass_on(original, tvb, pinfo, tree)
   columns.protocol, columns.info = protocol, info
   return used
end

-- Wireshark calls RDS. Where nobody watches, what is known of the frame was noted before, in the first pass.
local function note_frame(pinfo)
   switched_on = true
   if not watching and current ~= pinfo.number then
      current, held.tvb, segment, done, visited = pinfo.number, nil, nil, false, true
   end
end

-- TCP: its watcher, and what it hands on.

local TCP = 6
local watch_segment, watch_tcp, odd_tcp_port, odd_ends
do
   local TCP_HEADER_BYTES = 20
   local ACK, ACK_PSH = 0x10, 0x18
   local TAKEN = { used = true } -- a segment of which all is noted
   local DATA_AT = {} -- the byte that tells the length of a TCP header -> where payload begins behind IPv4
   for octet = TCP_HEADER_BYTES * 4, 255 do
      DATA_AT[octet] = IPV4_BYTES + floor(octet / 16) * 4
   end

   local function show_segment(tvb, head, at, pinfo, tree)
      local frame = not done and shown[current]
      if frame then
         local has_header = #head >= at + TCP_HEADER_BYTES
         local payload = has_header and frame.messages and at + floor(byte(head, at + 13) / 16) * 4 or 0
         local data = payload > at and payload < captured_len(tvb) and tvb(payload):tvb() or nil
         show_directly(tvb, data, pinfo, tree)
      end
   end

   -- Take a segment as most are: over IPv4 without options, whole, of a connection whose route is known.
   local function take_segment(route, head, size, tvb, pinfo)
      local version, _, l1, l0, _, _, f1, f0, _, protocol = byte(head, 1, 10)
      local stop = l1 * 256 + l0
      if version ~= 0x45 or protocol ~= TCP or stop > size or f1 % 64 > 0 or f0 > 0 then
         return false
      end
      local q3, q2, q1, q0, a3, a2, a1, a0, header, bits = byte(head, IPV4_BYTES + 5, IPV4_BYTES + 14)
      if bits ~= ACK and bits ~= ACK_PSH then
         return false
      end
      local at = DATA_AT[header]
      if not at or at > stop then
         return false
      end
      local seq, ack = ((q3 * 256 + q2) * 256 + q1) * 256 + q0, ((a3 * 256 + a2) * 256 + a1) * 256 + a0
      if not feed_next(route.half, seq, ack, tvb, at, stop, current, pinfo) then
         return false
      end
      segment = TAKEN
      return true
   end

   -- Further segments of this one's direction are known by their route, where it came over IPv4 without options.
   local function remember_half(head, at, half)
      if at == IPV4_BYTES and half and not half.gone then
         local route = routes[sub(head, ROUTE_FROM, ROUTE_TO)]
         if not route or route.half ~= half then
            remember_route(head, { half = half, take = take_segment, show = show_segment, read_all = false })
         end
      end
   end

   -- A TCP segment begins behind `at` bytes of `tvb`, whose first ones `head` has, and ends before `stop` on the wire.
   function watch_segment(head, at, stop, src, dst, tvb, pinfo, tree, original)
      local saved_done = done
      local has_header = #head >= at + TCP_HEADER_BYTES
      held.tvb, held.head, held.at, held.stop, held.src, held.dst = has_header and tvb, head, at, stop, src, dst
      segment, done = nil, false
      if visited then
         settle_at_end()
      elseif has_header then
         local sport, s, dport, d = byte(head, at + 1, at + 4)
         local rds_port = tcp_ports[sport * 256 + s] or tcp_ports[dport * 256 + d]
         if rds_port or connection_count > 0 then
            segment = read_segment(tvb, head, at, stop, src, dst)
            if segment and (rds_port or segment.half) then
               feed_tcp(segment, now_of(current, pinfo), rds_tcp_port)
               remember_half(head, at, segment.half)
            end
         end
      end
      if shows_first() then
         show_segment(tvb, head, at, pinfo, tree)
      end
      local used = pass_on_shown(original, tvb, pinfo, tree)
      show_segment(tvb, head, at, pinfo, tree)
      held.tvb, segment, done = nil, nil, saved_done
      return used
   end

   function watch_tcp(tvb, pinfo, tree, original)
      if taken then
         return pass_on(original, tvb, pinfo, tree)
      end
      local src, dst = host_text(source_of(pinfo)), host_text(destination_of(pinfo))
      return watch_segment(first_bytes(tvb), 0, reported_len(tvb), src, dst, tvb, pinfo, tree, original)
   end

   -- The segment that TCP hands on now, where it was not taken already.
   local function unused_segment()
      if not segment and held.tvb then
         segment = read_segment(held.tvb, held.head, held.at, held.stop, held.src, held.dst)
      end
      return segment and not segment.used and segment or nil
   end

   -- A segment on an odd port that begins with a message no other protocol would: all headers in it are without fault, the
   -- first begins a connection of RDS or is followed by another.
   local function looks_like_rds(data, least)
      local at, count = 1, 0
      while at + HEADER_BYTES - 1 <= #data do
         if oddities(data, at) > 0 then
            return false
         end
         local length, flags = u32(data, at + 16), byte(data, at + 24)
         if flags == CONG_BITMAP and (length ~= BITMAP_BYTES or sub(data, at + 32, at + 47) ~= NO_EXTENSIONS) then
            return false
         end
         count = count + (flags == CONG_BITMAP and 2 or 1)
         at = at + HEADER_BYTES + length
      end
      return count >= least
   end

   -- Called by TCP for its own ports, and for others by "Decode As".
   function rds.dissector(tvb, pinfo, tree)
      note_frame(pinfo)
      local size = captured_len(tvb)
      if size == 0 then
         return 0
      end
      if not (segment and segment.used) and not pinfo.visited then
         local unused = unused_segment()
         if unused then
            feed_tcp(unused, now_of(current, pinfo), rds_tcp_port, looks_like_rds(unused.data, 1))
         end
      end
      show_once(tvb, pinfo, tree)
      return size
   end

   odd_ends = {} -- where RDS was found on an odd port: further paths go there, and one header is enough

   function odd_tcp_port(tvb, pinfo, tree)
      note_frame(pinfo)
      if not (shown[current] or pinfo.visited) then
         local unused = unused_segment()
         if not unused or unused.size ~= #unused.data then
            return false
         end
         local from, to = unused.src .. "/" .. unused.sport, unused.dst .. "/" .. unused.dport
         if not looks_like_rds(unused.data, (odd_ends[from] or odd_ends[to]) and 1 or 2) then
            return false
         end
         odd_ends[from], odd_ends[to] = true, true
         feed_tcp(unused, now_of(current, pinfo), rds_tcp_port, true)
      end
      if not shown[current] then
         return false
      end
      show_once(tvb, pinfo, tree)
      return true
   end
end

-- InfiniBand and RoCE: their watchers, and what they hand on.

local UDP, ICRC_BYTES = 17, 4
local watch_packet, watch_roce_v2, watch_roce_v1, watch_native, infiniband_payload, infiniband_private
local remember_flow
do
   function watch_packet(packet, tvb, pinfo, tree, original)
      if visited then
         settle_at_end()
      elseif packet then
         local flow = packet.flow
         local take = flow and #packet.data == packet.length and EXPECTED[packet.opcode]
         if not (take and take(flow, packet.psn, packet.data, false, packet.solicited, current, pinfo)) then
            feed_packet(packet, now_of(current, pinfo))
         end
      end
      local saved_done = done
      done = false
      if shows_first() then
         show_directly(tvb, nil, pinfo, tree)
      end
      local used = pass_on_shown(original, tvb, pinfo, tree)
      show_directly(tvb, nil, pinfo, tree)
      done = saved_done
      return used
   end

   -- Take a packet as most are: over IPv4 without options, whole, and of a flow whose route is known. `head` has the first of
   -- its `size` bytes. Returns whether it was one.
   local function take_packet(route, head, size, tvb, pinfo)
      local version, _, l1, l0, _, _, f1, f0, _, protocol = byte(head, 1, 10)
      if version ~= 0x45 or protocol ~= UDP or l1 * 256 + l0 ~= size or f1 % 64 > 0 or f0 > 0 then
         return false
      end
      local stop = size - FRAMED_BEHIND
      if stop < FRAMED_AT then
         return false
      end
      local s, s0, _, _, opcode, bits, _, _, _, q2, q1, q0, _, p2, p1, p0 = byte(head, 25, FRAMED_AT)
      local flow = route[(q2 * 256 + q1) * 256 + q0]
      if not flow or flow.replaced or bits % 64 >= 16 or s * 256 + s0 ~= size - IPV4_BYTES then
         return false
      end
      local psn = (p2 * 256 + p1) * 256 + p0
      local take, frame = EXPECTED[opcode], #head == size and head or raw_bytes(tvb, 0, size)
      if take and take(flow, psn, frame, true, bits >= 128, current, pinfo) then
         return true
      end
      local packet = whole_packet(flow, opcode, bits >= 128, psn, sub(frame, FRAMED_AT + 1, stop))
      if flow.known then
         feed_known(flow, packet, now_of(current, pinfo))
      else
         feed_packet(packet, now_of(current, pinfo))
      end
      return true
   end

   local function show_packet(tvb, _, _, pinfo, tree)
      show_directly(tvb, nil, pinfo, tree)
   end

   -- Further packets of this one's flow, which came over IPv4 without options, are known by their route, to which several
   -- queue pairs may belong.
   function remember_flow(head, packet)
      local flow = packet and packet.flow
      if flow and flow.stream then
         local route = routes[sub(head, ROUTE_FROM, ROUTE_TO)]
         if not route or route.take ~= take_packet then
            route = { take = take_packet, show = show_packet, read_all = true }
            remember_route(head, route)
         end
         route[flow.qpn] = flow
      end
   end

   local GRH_BYTES, LRH_BYTES = 40, 8
   local NEXT_BTH, NEXT_GRH, IB_TRANSPORT = 2, 3, 0x1b

   function watch_roce_v2(tvb, pinfo, tree, original)
      if taken then
         return pass_on(original, tvb, pinfo, tree)
      end
      local src, dst = host_text(source_of(pinfo)), host_text(destination_of(pinfo))
      local packet = read_packet(tvb, first_bytes(tvb), 0, reported_len(tvb) - ICRC_BYTES, src, dst)
      return watch_packet(packet, tvb, pinfo, tree, original)
   end

   -- A packet whose GRH begins behind `at` bytes of `tvb`; GRH is laid out like an IPv6 header.
   local function read_grh(tvb, head, at)
      if #head < at + GRH_BYTES or byte(head, at + 7) ~= IB_TRANSPORT then
         return nil
      end
      local src, dst = address_text(sub(head, at + 9, at + 24)), address_text(sub(head, at + 25, at + 40))
      at = at + GRH_BYTES
      return read_packet(tvb, head, at, min(at + u16(head, at - GRH_BYTES + 5), reported_len(tvb)) - ICRC_BYTES, src, dst)
   end

   function watch_roce_v1(tvb, pinfo, tree, original)
      return watch_packet(read_grh(tvb, first_bytes(tvb), 0), tvb, pinfo, tree, original)
   end

   local function read_native(tvb)
      local head = first_bytes(tvb)
      if #head < LRH_BYTES then
         return nil
      end
      local following = byte(head, 2) % 4
      if following == NEXT_GRH then
         return read_grh(tvb, head, LRH_BYTES)
      elseif following == NEXT_BTH then
         local stop = u16(head, 5) % 2048 * 4 - ICRC_BYTES
         local src, dst = format("lid:%d", u16(head, 7)), format("lid:%d", u16(head, 3))
         return read_packet(tvb, head, LRH_BYTES, min(stop, reported_len(tvb)), src, dst)
      end
      return nil
   end

   function watch_native(tvb, pinfo, tree, original)
      return watch_packet(read_native(tvb), tvb, pinfo, tree, original)
   end

   -- Claims payloads of RDS, so that no other heuristic does. What is shown was decided by the watcher. Of others it claims
   -- a SEND's end without its begin, in the second pass: on these Wireshark's RPC over RDMA fails then, in a way that no
   -- Lua below it survives. After some tens of them Lua would find its stack full in every frame.
   function infiniband_payload(tvb, pinfo, tree)
      note_frame(pinfo)
      local frame = shown[current]
      if not frame or not (frame.parts or frame.messages) then
         return orphans[current] ~= nil and pinfo.visited
      end
      show_once(tvb, pinfo, tree)
      return true
   end

   function infiniband_private(_, pinfo, tree)
      note_frame(pinfo)
      local frame = shown[current]
      if not frame or not frame.cm then
         return false
      end
      show_once(nil, pinfo, tree)
      return true
   end
end

-- IP: its watcher. Addresses and ports lie in one string of bytes there.

local ROCE_PORT = 4791
local inside -- why the watchers at TCP and UDP are there: "links", "packets", or nil where they are not
local put_inside -- in 5_watchers.lua
local watch_ip
do
   local IPV6_BYTES, UDP_BYTES = 40, 8
   local HOP_BY_HOP, FRAGMENT = 0, 44
   local CARRY_NO_IP = { [1] = true, [2] = true, [58] = true, [89] = true, [103] = true, [112] = true }

   local read_all = false -- at once what was captured of a frame: where it follows one of RoCE, to which all is of use

   local CARRY_IP = { [4790] = true, [6635] = true } -- UDP ports: VXLAN that names what it carries, MPLS

   -- Where the payload of an IP packet begins and ends, its protocol, source and destination. No protocol: no IP.
   local function read_ip(head)
      local first, _, l1, l0, p1, p0, f1, f0, _, protocol = byte(head, 1, 10)
      if #head >= IPV4_BYTES and first >= 0x45 and first < 0x50 then
         local fragment = f1 % 64 > 0 or f0 > 0
         return (first - 0x40) * 4, l1 * 256 + l0, fragment and FRAGMENT or protocol, sub(head, 13, 16), sub(head, 17, 20)
      elseif #head > IPV6_BYTES and first >= 0x60 and first < 0x70 then
         if f1 == HOP_BY_HOP then
            local behind = byte(head, IPV6_BYTES + 1)
            f1 = CARRY_NO_IP[behind] and behind or HOP_BY_HOP
         end
         return IPV6_BYTES, IPV6_BYTES + p1 * 256 + p0, f1, sub(head, 9, 24), sub(head, 25, 40)
      end
      return 0, 0, nil
   end

   -- What is not known by its route. `head` has the first bytes of `tvb`.
   local function watch_inside_ip(head, tvb, pinfo, tree, original)
      if inside == "links" then
         put_inside(nil)
      end
      local at, stop, protocol, src, dst = read_ip(head)
      taken = false
      if stop > at and protocol == TCP then
         taken = true
         return watch_segment(head, at, stop, host_of(src), host_of(dst), tvb, pinfo, tree, original)
      elseif stop > at and protocol == UDP then
         local p, port, s, s0 = byte(head, at + 3, at + 6)
         if #head >= at + UDP_BYTES and p * 256 + port == ROCE_PORT then
            taken = true
            local udp = s * 256 + s0
            stop = (udp >= UDP_BYTES and min(stop, at + udp) or stop) - ICRC_BYTES
            local packet = read_packet(tvb, head, at + UDP_BYTES, stop, host_of(src), host_of(dst))
            if at == IPV4_BYTES then
               remember_flow(head, packet)
            end
            return watch_packet(packet, tvb, pinfo, tree, original)
         elseif port and CARRY_IP[p * 256 + port] and not inside then
            put_inside("packets")
         end
      elseif protocol and not (CARRY_NO_IP[protocol] or inside) then
         put_inside("packets")
      end
      return pass_on(original, tvb, pinfo, tree)
   end

   -- Links that carry IP under a name of their own have the watchers at TCP and UDP, until one is seen that does not.
   function watch_ip(tvb, pinfo, tree, original)
      local saved, saved_done = taken, done
      local head, size
      if read_all then
         head = raw_bytes(tvb)
         size = #head
      else
         size = captured_len(tvb)
         head = raw_bytes(tvb, 0, size < HEAD_BYTES and size or HEAD_BYTES)
      end
      local route = not visited and routes[sub(head, ROUTE_FROM, ROUTE_TO)]
      local used
      if route and route.take(route, head, size, tvb, pinfo) then
         taken, done, read_all = true, false, route.read_all
         used = pass_on(original, tvb, pinfo, tree)
         if not done and shown[current] then
            route.show(tvb, head, IPV4_BYTES, pinfo, tree)
         end
         segment, done = nil, saved_done
      else
         read_all = false
         used = watch_inside_ip(head, tvb, pinfo, tree, original)
      end
      taken = saved
      return used
   end
end

-- The watchers take their places, and leave them.

local at_ip = true
do
   local MOST_LOST_AT_IP, MOST_LOST_CALLS = 5, 80
   local lost_calls, depth = 0, 0 -- times a watcher was left, and how many are at work
   local watched = {} -- a list of table, pattern and Wireshark's own dissector

   -- Take away the watchers at `place`, or put them there.
   local function put_watchers(place, there)
      for _, each in ipairs(watched) do
         if each.place == place then
            DissectorTable.get(each.table_name):add(each.pattern, there and each.watcher or each.original)
         end
      end
   end

   function put_inside(why)
      inside = why
      put_watchers("inside", why)
   end

   local function stop_watching()
      watching = false
      put_inside(nil)
      put_watchers("link", false)
      io.stderr:write(
         "rds: Wireshark's dissectors gave up ",
         lost_calls,
         " frames, most of them cut short: RDS is not looked for from frame ",
         current,
         " on, until Wireshark is started again (capture whole frames, or filter for RDS)\n"
      )
   end

   -- A new frame, while watchers seem to be at work: they were left.
   local function count_lost_calls()
      lost_calls, depth = lost_calls + depth, 0
      if at_ip and lost_calls > MOST_LOST_AT_IP then
         at_ip = false
         put_watchers("ip", false)
         put_inside("packets")
      elseif watching and lost_calls > MOST_LOST_CALLS then
         stop_watching()
      end
   end

   -- Wireshark's own dissector is not in its table any more once "Reload Lua Plugins" has taken away the watcher that
   -- was there. Then it is found by its name, if it has one.
   local function watcher(name, description, table_name, pattern, own_name, watch, place)
      local dissectors = DissectorTable.get(table_name)
      local original = dissectors and (dissectors:get_dissector(pattern) or own_name and Dissector.get(own_name))
      if not original then
         return
      end
      local proto = Proto(name, description)
      function proto.dissector(tvb, pinfo, tree)
         local number = number_of(pinfo)
         if number > newest then
            visited, newest = false, number
         else
            visited = is_visited(pinfo)
         end
         if number ~= current then
            if depth > 0 then
               lost_frames[current] = true
               count_lost_calls()
            end
            current, taken = number, false
         end
         depth = depth + 1
         local used
         if switched_on == false then
            used = pass_on(original, tvb, pinfo, tree)
         else
            used = watch(tvb, pinfo, tree, original)
         end
         depth = depth - 1
         return used
      end
      insert(watched, {
         table_name = table_name,
         pattern = pattern,
         original = original,
         watcher = proto,
         place = place,
      })
      dissectors:add(pattern, proto)
   end

   local RAW = wtap_encaps.RAW_IP
   watcher("rds_watch_ip", "IP, watched for RDS", "ethertype", 0x0800, "ip", watch_ip, "ip")
   watcher("rds_watch_ip6", "IPv6, watched for RDS", "ethertype", 0x86dd, "ipv6", watch_ip, "ip")
   watcher("rds_watch_raw", "IP without a link, watched for RDS", "wtap_encap", RAW, "raw_ip", watch_ip, "ip")
   watcher("rds_watch_tcp", "TCP, watched for RDS", "ip.proto", TCP, "tcp", watch_tcp, "inside")
   watcher("rds_watch_roce2", "RoCE v2, watched for RDS", "udp.port", ROCE_PORT, nil, watch_roce_v2, "inside")
   watcher("rds_watch_roce1", "RoCE v1, watched for RDS", "ethertype", 0x8915, nil, watch_roce_v1, "link")
   watcher("rds_watch_ib", "InfiniBand, watched for RDS", "erf.types.type", 25, "infiniband_link", watch_native, "link")
end

-- The plugin itself: a new capture, ports, heuristics.

function rds.init()
   local had_streams = streams ~= nil and #streams > 0
   start_capture()
   start_tcp()
   start_infiniband()
   start_cm()
   routes, route_count = {}, 0
   odd_ends, lost_frames, newest, switched_on = {}, {}, 0, nil
   if at_ip then
      put_inside("links")
   end
   if had_streams then
      collectgarbage() -- what the last capture left, of which nothing is known any more
   end
end

-- Ports as a preference: "16385, 20000-20010".
local registered = ""

local function set_ports(text)
   local dissectors = DissectorTable.get("tcp.port")
   if registered ~= "" then
      dissectors:remove(registered, rds)
   end
   tcp_ports = {}
   for part in text:gmatch("[^,%s]+") do
      local low, high = part:match("^(%d+)%-?(%d*)$")
      low = tonumber(low)
      high = tonumber(high) or low
      for port = low or 1, high or 0 do
         tcp_ports[port] = true
      end
   end
   registered = text
   if text ~= "" then
      dissectors:add(text, rds)
   end
end

set_ports(rds.prefs.tcp_ports)

function rds.prefs_changed()
   if rds.prefs.tcp_ports ~= registered then
      set_ports(rds.prefs.tcp_ports)
   end
end

rds:register_heuristic("tcp", odd_tcp_port)
rds:register_heuristic("infiniband.payload", infiniband_payload)
rds:register_heuristic("infiniband.mad.cm.private", infiniband_private)
DissectorTable.get("tcp.port"):add_for_decode_as(rds)

end

-- What a capture adds up to: `tshark -q -z rds`, or Statistics > RDS in Wireshark.

do
   -- A window for text is 75 characters wide.
   local HEAD = "  %-12s %10s %14s %8s %10s\n"
   local ROW = "  %-12s %10d %14.0f %8d %10d\n"

   local function new_sums()
      return { order = {}, rows = {} }
   end

   local function count(sums, message)
      local name = message.stream.pair.name .. "\n" .. message.kind
      local row = sums.rows[name]
      if not row then
         row = { kind = message.kind, connection = message.stream.pair.name, messages = 0, bytes = 0, resent = 0 }
         row.incomplete = 0
         sums.rows[name] = row
         insert(sums.order, name)
      end
      row.messages = row.messages + 1
      row.bytes = row.bytes + message.length
      row.resent = row.resent + (has(message.flags, RETRANSMITTED) and 1 or 0)
      row.incomplete = row.incomplete + (message.complete and 0 or 1)
   end

   local function sums_text(sums)
      table.sort(sums.order)
      local lines, connection = { "RDS messages by connection and kind\n" }, nil
      for _, name in ipairs(sums.order) do
         local row = sums.rows[name]
         if row.connection ~= connection then
            connection = row.connection
            insert(lines, "\n" .. connection .. "\n")
            insert(lines, format(HEAD, "kind", "messages", "bytes", "resent", "not whole"))
         end
         insert(lines, format(ROW, row.kind, row.messages, row.bytes, row.resent, row.incomplete))
      end
      return concat(lines)
   end

   -- A tap that shows its sums through `show(text)` whenever Wireshark asks for them.
   local function start(show)
      local sums = new_sums()
      local tap = Listener.new("frame")
      function tap.packet(pinfo)
         local frame = shown[pinfo.number]
         for _, message in ipairs(frame and frame.messages or {}) do
            count(sums, message)
         end
      end
      function tap.draw()
         show(sums_text(sums))
      end
      function tap.reset()
         sums = new_sums()
      end
      return tap
   end

   register_stat_cmd_arg("rds", function()
      start(print)
   end)

   if gui_enabled() then
      register_menu("RDS", function()
         local window = TextWindow.new("RDS messages")
         local tap = start(function(text)
            window:set(text)
         end)
         window:set_atclose(function()
            tap:remove()
         end)
         retap_packets()
      end, MENU_STAT_UNSORTED)
   end
end
