-- Where frames come from. A dissector on a TCP port sees neither retransmitted segments nor acknowledgements, and one on
-- `infiniband.payload` no packet numbers. So a watcher stands in front of Wireshark's own dissectors for TCP and for the
-- InfiniBand transport: it notes what passes, and then lets them do their work.

do
   local watched = {} -- the dissectors behind the watcher
   local current -- the frame that is dissected: what the watcher read of it

   local tcp_ports = {}

   local function rds_tcp_port(port)
      return tcp_ports[port] or false
   end

   local function now_of(pinfo)
      return { number = pinfo.number, time = pinfo.abs_ts }
   end

   -- With the preference `settle`, what still waits for frames that never came is shown once all frames were seen.
   local function settle_at_end(pinfo)
      if pinfo.visited and not at_end and rds.prefs.settle then
         at_end = true
         finish_tcp()
         finish_infiniband()
      end
   end

   local function show_once(tvb, pinfo, root)
      local frame = shown[pinfo.number]
      if not frame or (current and current.done) then
         return
      end
      if current then
         current.done = true
      end
      show_frame(frame, tvb, (tvb or current.tvb)(0, 0), pinfo, root)
   end

   -- TCP.

   local function watch_tcp(tvb, pinfo, tree)
      local outer = current
      settle_at_end(pinfo)
      current = { tcp = true, tvb = tvb, pinfo = pinfo }
      if tvb:len() >= 20 then
         local sport, dport = tvb(0, 2):uint(), tvb(2, 2):uint()
         current.port = rds_tcp_port(sport) or rds_tcp_port(dport)
         if not pinfo.visited then
            if current.port or connection_count > 0 then
               current.segment = read_segment(tvb, pinfo)
               local segment = current.segment
               if segment and (current.port or connections[segment.key]) then
                  feed_tcp(segment, now_of(pinfo), rds_tcp_port)
               end
            end
         end
      end
      local used = watched.tcp:call(tvb, pinfo, tree)
      if not current.done and shown[pinfo.number] then
         local header = tvb:len() >= 20 and floor(tvb(12, 1):uint() / 16) * 4 or 0
         show_once(header > 0 and header < tvb:len() and tvb(header):tvb() or nil, pinfo, tree)
      end
      current = outer
      return used
   end

   -- The segment that TCP hands on now, where it was not taken already.
   local function unused_segment()
      if current and current.tcp and not current.segment then
         current.segment = read_segment(current.tvb, current.pinfo)
      end
      local segment = current and current.segment
      return segment and not segment.used and segment or nil
   end

   -- Called by TCP for its own ports, and for others by "Decode As".
   function rds.dissector(tvb, pinfo, tree)
      if not pinfo.visited then
         local segment = unused_segment()
         if segment then
            feed_tcp(segment, now_of(pinfo), rds_tcp_port)
         end
      end
      show_once(tvb, pinfo, tree)
      return tvb:len()
   end

   -- A segment on an odd port that begins with a message no other protocol would: all headers in it are without fault, the
   -- first begins a connection of RDS or is followed by another.
   local function looks_like_rds(data)
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
      return count >= 2
   end

   local function odd_tcp_port(tvb, pinfo, tree)
      if pinfo.visited then
         if not shown[pinfo.number] then
            return false
         end
      else
         local segment = unused_segment()
         if not segment or segment.size ~= #segment.data or not looks_like_rds(segment.data) then
            return false
         end
         feed_tcp(segment, now_of(pinfo), rds_tcp_port, true)
      end
      show_once(tvb, pinfo, tree)
      return true
   end

   -- InfiniBand and RoCE.

   local function watch_packet(tvb, pinfo, tree, original, read)
      local outer = current
      settle_at_end(pinfo)
      current = { tvb = tvb }
      if not pinfo.visited then
         local now = now_of(pinfo)
         local packet = read(tvb, pinfo, now)
         if packet then
            feed_packet(packet, now)
         end
      end
      local used = original:call(tvb, pinfo, tree)
      show_once(nil, pinfo, tree)
      current = outer
      return used
   end

   local ICRC_BYTES, GRH_BYTES, LRH_BYTES = 4, 40, 8
   local NEXT_BTH, NEXT_GRH, IB_TRANSPORT = 2, 3, 0x1b

   local function read_roce_v2(tvb, pinfo, now)
      return read_packet(tvb, 0, tvb:reported_len() - ICRC_BYTES, host_text(pinfo.net_src), host_text(pinfo.net_dst), now)
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

   -- Claims payloads of RDS, so that no other heuristic does. What is shown was decided by the watcher.
   local function infiniband_payload(tvb, pinfo, tree)
      local frame = shown[pinfo.number]
      if not frame or not (frame.messages or frame.parts) then
         return false
      end
      show_once(tvb, pinfo, tree)
      return true
   end

   local function infiniband_private(_, pinfo, tree)
      local frame = shown[pinfo.number]
      if not frame or not frame.cm then
         return false
      end
      show_once(nil, pinfo, tree)
      return true
   end

   local function watcher(name, description, table_name, pattern, watch)
      local dissectors = DissectorTable.get(table_name)
      local original = dissectors and dissectors:get_dissector(pattern)
      if not original then
         return
      end
      local proto = Proto(name, description)
      function proto.dissector(tvb, pinfo, tree)
         return watch(tvb, pinfo, tree, original)
      end
      dissectors:add(pattern, proto)
      return original
   end

   local function watch_with(read)
      return function(tvb, pinfo, tree, original)
         return watch_packet(tvb, pinfo, tree, original, read)
      end
   end

   watched.tcp = watcher("rds_watch_tcp", "TCP, watched for RDS", "ip.proto", 6, watch_tcp)
   watcher("rds_watch_roce2", "RoCE v2, watched for RDS", "udp.port", 4791, watch_with(read_roce_v2))
   watcher("rds_watch_roce1", "RoCE v1, watched for RDS", "ethertype", 0x8915, watch_with(read_roce_v1))
   watcher("rds_watch_ib", "InfiniBand, watched for RDS", "erf.types.type", 25, watch_with(read_native))

   function rds.init()
      start_capture()
      start_tcp()
      start_infiniband()
      start_cm()
      current = nil
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
