-- Where frames come from. A dissector on a TCP port sees neither retransmitted segments nor acknowledgements, and one on
-- `infiniband.payload` no packet numbers. So a watcher stands in front of Wireshark's own dissectors for TCP and for the
-- InfiniBand transport: it notes what passes, and then lets them do their work.

--
-- What these throw at the end of a frame that was cut short, or for a bug of their own, Wireshark catches far outside: it
-- leaves the watcher in the middle, and Lua does not learn of it. Each time two calls more stay on its stack, which holds
-- 200. Before it is full, the watchers leave Wireshark's dissectors alone for good.

do
   local TCP_HEADER_BYTES = 20
   local MOST_LOST_CALLS = 75
   local lost_calls, depth = 0, 0 -- times a watcher was left, and how many are at work
   local watching = true
   local watched = {} -- a list of table, pattern and Wireshark's own dissector
   local tcp_ports = {}
   -- The frame that is dissected: its number, the tvb and pinfo that the watcher got, what it read of it, and whether it
   -- is shown. Whatever is asked of Wireshark costs more than all that Lua does with the answer, so it is asked once.
   local current, outer_tvb, outer_pinfo, segment, done

   local function rds_tcp_port(port)
      return tcp_ports[port] or false
   end

   local function now_of(pinfo)
      return { number = current, time = time_of(pinfo), messages = nil, parts = nil }
   end

   -- With the preference `settle`, what still waits for frames that never came is shown once all frames were seen.
   local function settle_at_end()
      if not at_end and rds.prefs.settle then
         at_end = true
         finish_tcp()
         finish_infiniband()
      end
   end

   local function show_once(tvb, pinfo, root)
      local frame = not done and shown[current]
      if frame then
         done = true
         show_frame(frame, tvb, pinfo, root)
      end
   end

   -- TCP.

   local function watch_tcp(tvb, pinfo, tree, original)
      local saved_tvb, saved_pinfo, saved_done = outer_tvb, outer_pinfo, done
      outer_tvb, outer_pinfo, segment, done = tvb, pinfo, nil, false
      local size = captured_len(tvb)
      if is_visited(pinfo) then
         settle_at_end()
      elseif size >= TCP_HEADER_BYTES then
         local raw = raw_bytes(tvb, 0, TCP_HEADER_BYTES)
         local sport, s, dport, d = byte(raw, 1, 4)
         local rds_port = tcp_ports[sport * 256 + s] or tcp_ports[dport * 256 + d]
         if rds_port or connection_count > 0 then
            segment = read_segment(raw, tvb, size, pinfo)
            local half = segment and segment.half
            if half and segment.size == 0 and segment.only_ack then
               segment.used = true
               seen_segment(current, time_of(pinfo))
               if advances(half, segment) then
                  take_acknowledgement(half, segment, now_of(pinfo))
               end
            elseif segment and (rds_port or half) then
               feed_tcp(segment, now_of(pinfo), rds_tcp_port)
            end
         end
      end
      local used = hand_over(call_dissector, original, tvb, pinfo, tree) or tvb:len()
      local frame = not done and shown[current]
      if frame then
         local header = frame.messages and size >= TCP_HEADER_BYTES and floor(byte(tvb:raw(12, 1)) / 16) * 4 or 0
         show_once(header > 0 and header < size and tvb(header):tvb() or nil, pinfo, tree)
      end
      outer_tvb, outer_pinfo, segment, done = saved_tvb, saved_pinfo, nil, saved_done
      return used
   end

   -- Where nobody watches, what is known of the frame was noted before, in the first pass.
   local function note_frame(pinfo)
      if not watching and current ~= pinfo.number then
         current, outer_tvb, segment, done = pinfo.number, nil, nil, false
      end
   end

   -- The segment that TCP hands on now, where it was not taken already.
   local function unused_segment()
      if not segment then
         local size = outer_tvb and outer_tvb:len() or 0
         if size >= TCP_HEADER_BYTES then
            segment = read_segment(outer_tvb:raw(0, TCP_HEADER_BYTES), outer_tvb, size, outer_pinfo)
         end
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
      if not (segment and segment.used) and not pinfo.visited then
         local unused = unused_segment()
         if unused then
            feed_tcp(unused, now_of(pinfo), rds_tcp_port, looks_like_rds(unused.data, 1))
         end
      end
      show_once(tvb, pinfo, tree)
      return captured_len(tvb)
   end

   local odd_ends = {} -- where RDS was found on an odd port: further paths go there, and one header is enough

   local function odd_tcp_port(tvb, pinfo, tree)
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
         feed_tcp(unused, now_of(pinfo), rds_tcp_port, true)
      end
      if not shown[current] then
         return false
      end
      show_once(tvb, pinfo, tree)
      return true
   end

   -- InfiniBand and RoCE.

   local function watch_packet(tvb, pinfo, tree, original, read)
      local saved_done = done
      done = false
      if is_visited(pinfo) then
         settle_at_end()
      else
         local now = now_of(pinfo)
         local packet = read(tvb, pinfo, now)
         if packet then
            feed_packet(packet, now)
         end
      end
      local used = hand_over(call_dissector, original, tvb, pinfo, tree) or tvb:len()
      if not done then
         show_once(nil, pinfo, tree)
      end
      done = saved_done
      return used
   end

   local ICRC_BYTES, GRH_BYTES, LRH_BYTES = 4, 40, 8
   local NEXT_BTH, NEXT_GRH, IB_TRANSPORT = 2, 3, 0x1b

   local function read_roce_v2(tvb, pinfo, now)
      return read_packet(tvb, 0, reported_len(tvb) - ICRC_BYTES, host_text(source_of(pinfo)), host_text(destination_of(pinfo)), now)
   end

   -- A packet whose GRH begins `at` bytes into `tvb`; GRH is laid out like an IPv6 header.
   local function read_grh(tvb, at, now)
      if tvb:len() < at + GRH_BYTES then
         return nil
      end
      local raw = tvb:raw(at, GRH_BYTES)
      if byte(raw, 7) ~= IB_TRANSPORT then
         return nil
      end
      local stop = min(at + GRH_BYTES + u16(raw, 5), tvb:reported_len()) - ICRC_BYTES
      return read_packet(tvb, at + GRH_BYTES, stop, address_text(sub(raw, 9, 24)), address_text(sub(raw, 25, 40)), now)
   end

   local function read_roce_v1(tvb, _, now)
      return read_grh(tvb, 0, now)
   end

   local function read_native(tvb, _, now)
      if tvb:len() < LRH_BYTES then
         return nil
      end
      local raw = tvb:raw(0, LRH_BYTES)
      local following = byte(raw, 2) % 4
      if following == NEXT_GRH then
         return read_grh(tvb, LRH_BYTES, now)
      elseif following == NEXT_BTH then
         local stop = u16(raw, 5) % 2048 * 4 - ICRC_BYTES
         local src, dst = format("lid:%d", u16(raw, 7)), format("lid:%d", u16(raw, 3))
         return read_packet(tvb, LRH_BYTES, min(stop, tvb:reported_len()), src, dst, now)
      end
      return nil
   end

   -- Claims payloads of RDS, so that no other heuristic does. What is shown was decided by the watcher. Of others it claims
   -- a SEND's end without its begin, in the second pass: on these Wireshark's RPC over RDMA fails then, in a way that no
   -- Lua below it survives. After some tens of them Lua would find its stack full in every frame.
   local function infiniband_payload(tvb, pinfo, tree)
      note_frame(pinfo)
      local frame = shown[current]
      if not frame or not (frame.messages or frame.parts) then
         return orphans[current] ~= nil and pinfo.visited
      end
      if not done then
         done = true
         show_frame(frame, tvb, pinfo, tree)
      end
      return true
   end

   local function infiniband_private(_, pinfo, tree)
      note_frame(pinfo)
      local frame = shown[current]
      if not frame or not frame.cm then
         return false
      end
      show_once(nil, pinfo, tree)
      return true
   end

   local function stop_watching()
      watching = false
      for _, each in ipairs(watched) do
         DissectorTable.get(each.table_name):add(each.pattern, each.original)
      end
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
      if lost_calls > MOST_LOST_CALLS and watching then
         stop_watching()
      end
   end

   local function watcher(name, description, table_name, pattern, watch, read)
      local dissectors = DissectorTable.get(table_name)
      local original = dissectors and dissectors:get_dissector(pattern)
      if not original then
         return
      end
      local proto = Proto(name, description)
      function proto.dissector(tvb, pinfo, tree)
         if not number_of then
            learn_getters(pinfo)
         end
         local number = number_of(pinfo)
         if number ~= current then
            current = number
            if depth > 0 then
               count_lost_calls()
            end
         end
         depth = depth + 1
         local used = watch(tvb, pinfo, tree, original, read)
         depth = depth - 1
         return used
      end
      insert(watched, { table_name = table_name, pattern = pattern, original = original })
      dissectors:add(pattern, proto)
   end

   watcher("rds_watch_tcp", "TCP, watched for RDS", "ip.proto", 6, watch_tcp)
   watcher("rds_watch_roce2", "RoCE v2, watched for RDS", "udp.port", 4791, watch_packet, read_roce_v2)
   watcher("rds_watch_roce1", "RoCE v1, watched for RDS", "ethertype", 0x8915, watch_packet, read_roce_v1)
   watcher("rds_watch_ib", "InfiniBand, watched for RDS", "erf.types.type", 25, watch_packet, read_native)

   function rds.init()
      start_capture()
      start_tcp()
      start_infiniband()
      start_cm()
      odd_ends = {}
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
