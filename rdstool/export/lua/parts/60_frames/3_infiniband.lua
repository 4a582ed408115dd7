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
