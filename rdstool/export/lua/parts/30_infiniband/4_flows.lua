-- Flows: what goes to one queue pair from one address. Two of them are the directions of an InfiniBand connection.
-- RDMA-CM tells which flows are RDS. Without it, headers do whose checksums verify and which fit to each other: twice in
-- a row is no chance, so that iSER, SMC, NVMe over Fabrics and NFS over RDMA are left alone.

local find_flow, new_flow, direct, follow
local flows, flow_count -- the set of all flows
local take_datagram -- A packet that may be a message of the connection manager; in 5_cm.lua.
do
   local MIN_CHAIN = 2 -- headers that must verify and agree
   local MAX_FOREIGN = 8 -- frames without a good header after which a flow is something else
   local MAX_STEP = 4096
   local MAX_FLOWS = 131072
   local MAX_KEPT_PACKETS = 128 -- of a flow that is not decided
   local CM_QP = 1
   local BTH_BYTES = 12
   local KNOWN_BITS = 0x40 -- flags below this are known to some kernel

   local by_queue_pair -- number of a queue pair -> source -> destination -> the flow to it

   function start_infiniband()
      flows, flow_count, by_queue_pair, orphans = {}, 0, {}, {}
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
         flows[before] = nil
      elseif flow_count >= MAX_FLOWS then
         return nil
      else
         flow_count = flow_count + 1
      end
      local flow = { src = src, dst = dst, qpn = qpn, kept = {}, good = 0, foreign_frames = 0, run = 0 }
      flow.pending, flow.early, flow.announced = {}, {}, {}
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

   -- Look at a packet of a flow that is not decided yet. Returns true for RDS, false for another protocol, nil for neither.
   local function observe(flow, packet)
      local what = packet.what
      if what.part ~= SEND or not what.starts then
         return nil
      end
      local header = plausible_header(sub(packet.data, what.header + 1, what.header + HEADER_BYTES))
      if header then
         flow.good = flow.good + 1
         flow.run = flow.last and agree(flow.last, header) and flow.run + 1 or 1
      else
         flow.foreign_frames = flow.foreign_frames + 1
         flow.run = 0
      end
      flow.last = header
      if flow.run >= MIN_CHAIN then
         return true
      elseif flow.foreign_frames >= MAX_FOREIGN and flow.foreign_frames > 2 * flow.good then
         return false
      end
      return nil
   end

   -- The flow of the other direction, where there is only one that may be it.
   local function counterpart(flow)
      local found
      for other in pairs(flows) do
         if other.stream and not other.peer and other.src == flow.dst and other.dst == flow.src then
            if found then
               return nil
            end
            found = other
         end
      end
      return found
   end

   local function attach(flow, now)
      local peer = counterpart(flow)
      local start = flow.kept[1] and flow.kept[1].psn
      for _, packet in ipairs(flow.kept) do
         if packet.what.part ~= RESPONSE then
            start = packet.psn
            break
         end
      end
      if peer then
         flow.peer, peer.peer = peer, flow
         direct(flow, peer.stream, 1 - peer.direction, start, true)
         local own = flow.direction == 0 and peer.stream.b or peer.stream.a
         own.port = flow.qpn
      else
         local source, target = { host = flow.src, port = 0 }, { host = flow.dst, port = flow.qpn }
         if flow.src <= flow.dst then
            direct(flow, add_stream("ib", source, target, false), 0, start, true)
         else
            direct(flow, add_stream("ib", target, source, false), 1, start, true)
         end
         tell(flow.stream, flow.direction, "opened", now)
      end
   end

   -- The numbers of a queue pair jumped far away: what follows is another connection.
   function restart_flow(flow)
      if flow.open then
         flow.open = nil
      end
      local peer = flow.peer
      local stream
      if peer and peer.renewed and peer.renewed ~= flow.stream then
         stream = peer.renewed
      else
         stream = add_stream("ib", flow.stream.a, flow.stream.b, false)
      end
      flow.renewed = stream
      flow.stream, flow.lost, flow.unit, flow.pending, flow.early, flow.header = stream, true, nil, {}, {}, nil
      flow.lane = stream.lanes[flow.direction]
   end

   function follow(flow, packet, now)
      if packet.what.part ~= RESPONSE then
         put_in_order(flow, packet, now)
      elseif flow.peer and flow.peer.stream then
         take_response(flow.peer, packet, now)
      end
   end

   -- Learn the path MTU from a packet that is as long as it.
   local function note_mtu(flow, packet)
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
      if not (flow and flow.stream) then
         find_orphan(flow, packet)
      end
      if not flow or flow.foreign then
         return false
      end
      if not flow.mtu then
         note_mtu(flow, packet)
      end
      if flow.stream then
         local order = flow.order
         order.mtu = order.mtu or flow.mtu or (flow.peer and flow.peer.mtu)
         follow(flow, packet, now)
         if packet.length > what.header and not (now.messages or now.parts) then
            -- Claims the payload of what waits, was seen before, or is RDMA: else another heuristic may take it.
            tell_part(flow.lane, now)
         end
         return true
      end
      insert(flow.kept, keep_packet(packet))
      if #flow.kept > MAX_KEPT_PACKETS then
         remove(flow.kept, 1)
      end
      local verdict = observe(flow, packet)
      if verdict == false then
         flow.foreign, flow.kept = true, {}
      elseif verdict then
         attach(flow, now)
         local kept = flow.kept
         flow.kept = {}
         for _, early in ipairs(kept) do
            follow(flow, early, now)
         end
         return true
      end
      return false
   end

   -- The capture has ended: give up all holes, and report what is incomplete and what was not answered.
   function finish_infiniband()
      local found = {}
      for flow in pairs(flows) do
         if flow.stream then
            insert(found, flow)
         end
      end
      table.sort(found, function(a, b)
         if a.stream.number ~= b.stream.number then
            return a.stream.number < b.stream.number
         end
         return a.direction < b.direction
      end)
      for _, flow in ipairs(found) do
         local now = flow.high
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
   end

   local packet = {} -- the same for all: what has to wait is copied

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
      packet.src, packet.dst, packet.opcode, packet.solicited = src, dst, opcode, bits >= 128
      packet.qpn, packet.psn = (q2 * 256 + q1) * 256 + q0, (p2 * 256 + p1) * 256 + p0
      packet.length, packet.data = stop - first, bytes_between(tvb, first, stop)
      packet.flow = find_flow(src, dst, packet.qpn)
      return packet
   end
end
