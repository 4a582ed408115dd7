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
