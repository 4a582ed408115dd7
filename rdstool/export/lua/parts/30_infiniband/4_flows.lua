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
