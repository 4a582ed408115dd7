-- What a message means after those before it: path, expected number, repetition, ping and pong, acknowledgement.

local MAX_PATHS
local check_message -- In 41_rules.lua.
do
   local MAX_WAITING_MESSAGES = 65536 -- of one direction that wait for their acknowledgement
   local MAX_SENT = 65536 -- of one direction that a repetition may refer to
   local MAX_PINGS = 1024
   MAX_PATHS = 8

   local IS_NUMBERED = { data = true, ping = true, pong = true, probe = true, ["probe-reply"] = true }

   -- What a probe or its reply says about the side that sent it; the path that follows from it (protocol.md 5.1).
   local function hear_probe(message)
      local stream = message.stream
      local parsed = parse_extensions(sub(message.raw, 33, 48))
      local npaths = extension_of(parsed, EXT_NPATHS)
      local source = ends_of(stream, message.direction)
      stream.pair.announced[source.host] = {
         npaths = npaths and max(1, u16(npaths, 1)) or 1,
         sport_idx = extension_of(parsed, EXT_SPORT_IDX) ~= nil,
      }
      stream.probed = true
   end

   -- The path, where the protocol itself tells it; an inference is left to `rdstool decode`.
   local function path_of(stream)
      if stream.transport ~= "tcp" then
         return nil
      elseif stream.probed then
         return 0
      end
      local announced = stream.pair.announced
      local dialled = announced[stream.a.host]
      if dialled and dialled.sport_idx then
         local npaths = MAX_PATHS
         for _, said in pairs(announced) do
            npaths = min(npaths, said.npaths)
         end
         if MAX_PATHS % npaths == 0 then
            return stream.a.port % npaths
         end
      end
      return nil
   end

   -- The first copy of a repeated message: on this stream, or on an earlier one between the same addresses.
   local function original_of(message)
      local source = ends_of(message.stream, message.direction)
      local list = message.stream.pair.streams
      for index = #list, 1, -1 do
         local stream = list[index]
         for direction = 0, 1 do
            local copy = ends_of(stream, direction).host == source.host and stream.lanes[direction].sent[message.sequence]
            if
               copy
               and copy ~= message
               and copy.sport == message.sport
               and copy.dport == message.dport
               and copy.length == message.length
            then
               return copy
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

   -- Let go of what was sent long ago.
   local function remember_sent(lane, message)
      lane.sent[message.sequence] = message
      lane.sent_order = lane.sent_order or { first = 1, last = 0 }
      local order = lane.sent_order
      order.last = order.last + 1
      order[order.last] = message
      if order.last - order.first >= MAX_SENT then
         local old = order[order.first]
         order[order.first] = nil
         order.first = order.first + 1
         if lane.sent[old.sequence] == old then
            lane.sent[old.sequence] = nil
         end
      end
   end

   local function await_acknowledgement(lane, message)
      local queue = lane.waiting
      queue.first, queue.last = queue.first or 1, (queue.last or 0) + 1
      queue[queue.last] = message
      if queue.last - queue.first >= MAX_WAITING_MESSAGES then
         queue[queue.first] = nil
         queue.first = queue.first + 1
      end
   end

   function analyse(message)
      local stream = message.stream
      local lane, other = stream.lanes[message.direction], stream.lanes[1 - message.direction]
      if message.kind == "probe" or message.kind == "probe-reply" then
         hear_probe(message)
      end
      message.path = path_of(stream)
      message.numbered = IS_NUMBERED[message.kind] and not has(message.flags, CONG_BITMAP)
      message.expected = lane.expected
      if message.kind == "congestion" then
         note_bitmap(message)
      elseif message.kind ~= "data" then
         note_ping(message, lane, other)
      end
      if message.numbered then
         if has(message.flags, RETRANSMITTED) then
            local original = original_of(message)
            message.original = original and original.frame
         end
         remember_sent(lane, message)
      end
      check_message(message, lane)
      if message.numbered then
         lane.expected = message.sequence + 1
      end
      if message.tcp or message.numbered then
         await_acknowledgement(lane, message)
      end
   end

   -- The peer has taken everything before `position`: a stream offset over TCP, a sequence over InfiniBand.
   function acknowledged(stream, direction, position, now)
      local lane = stream.lanes[direction]
      if position <= lane.acked then
         return
      end
      lane.acked = position
      local queue = lane.waiting
      local tcp = stream.transport == "tcp"
      local first, last, count = nil, nil, 0
      while queue.first and queue.first <= queue.last do
         local message = queue[queue.first]
         if (tcp and message.finish or message.sequence) > position then
            break
         end
         queue[queue.first] = nil
         queue.first = queue.first + 1
         message.acked = now
         first, last, count = first or message, message, count + 1
      end
      if last then
         insert(shows(now.number, "acks"), {
            stream = stream,
            direction = direction,
            first = first,
            last = last,
            count = count,
            time = now.time - last.frame.time,
         })
      end
   end
end
