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
