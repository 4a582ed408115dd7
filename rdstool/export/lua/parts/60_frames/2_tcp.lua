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
