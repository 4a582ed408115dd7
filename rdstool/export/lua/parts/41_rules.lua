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
