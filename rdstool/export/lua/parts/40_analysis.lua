-- What a message means after those before it: path, expected number, repetition, ping and pong, acknowledgement.

local MAX_PATHS, acknowledging_frame, path_at
local check_message -- In 41_rules.lua.
do
   local MAX_LOOKED_AT = 65536 -- messages of one direction among which the first copy of a repeated one is looked for
   local MAX_PINGS = 1024
   MAX_PATHS = 8

   -- What a probe or its reply says about the side that sent it; the path that follows from it (protocol.md 5.1).
   local function hear_probe(message)
      local stream = message.stream
      local parsed = parse_extensions(sub(message.raw, 33, 48))
      local npaths = extension_of(parsed, EXT.NPATHS)
      local source = ends_of(stream, message.direction)
      local before = stream.pair.announced[source.host]
      local said = {
         since = message.number,
         npaths = npaths and max(1, u16(npaths, 1)) or 1,
         sport_idx = extension_of(parsed, EXT.SPORT_IDX) ~= nil,
      }
      -- What is repeated holds from when it was said first.
      if not (before and before.npaths == said.npaths and before.sport_idx == said.sport_idx) then
         stream.pair.announced[source.host] = said
      end
      stream.probed = stream.probed or message.number
   end

   -- The path, where the protocol itself tells it up to message `number`; an inference is left to `rdstool decode`.
   local function path_of(stream, number)
      if not stream.tcp then
         return nil
      elseif stream.probed and stream.probed <= number then
         return 0
      end
      local announced = stream.pair.announced
      local dialled = announced[stream.a.host]
      if not (dialled and dialled.sport_idx and dialled.since <= number) then
         return nil
      end
      local npaths = MAX_PATHS
      for _, said in pairs(announced) do
         if said.since <= number then
            npaths = min(npaths, said.npaths)
         end
      end
      return MAX_PATHS % npaths == 0 and stream.a.port % npaths or nil
   end

   -- The first copy of a repeated message: on this stream, or on an earlier one between the same addresses.
   local function original_of(message)
      local source = ends_of(message.stream, message.direction)
      local list = message.stream.pair.streams
      for index = #list, 1, -1 do
         for direction = 0, 1 do
            if ends_of(list[index], direction).host == source.host then
               local lane = list[index].lanes[direction]
               for at = lane.count, max(1, lane.count - MAX_LOOKED_AT), -1 do
                  local copy = lane.messages[at]
                  if copy ~= message and key_of(copy.raw) == key_of(message.raw) then
                     return copy
                  end
               end
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

   function analyse(message)
      local lane = message.lane
      local stream, kind = lane.stream, message.kind
      local other = stream.lanes[1 - lane.direction]
      if kind == "probe" or kind == "probe-reply" then
         hear_probe(message)
      end
      local numbered = message.numbered
      message.expected = lane.expected
      if kind == "congestion" then
         note_bitmap(message)
      elseif kind ~= "data" then
         note_ping(message, lane, other)
      end
      if numbered and has(message.flags, RETRANSMITTED) then
         local original = original_of(message)
         message.original = original and original.frame
      end
      check_message(message, lane)
      if numbered then
         lane.expected = message.sequence + 1
      end
   end

   -- The first ordinary data message of a lane after those before it needs no more checks: `raw` is its header.
   function is_next(lane, raw, position)
      return position == lane.finish
         and lane.new
         and lane.numbered_segment == (lane.segment or 0)
         and byte(raw, 25) == 0
         and u64(raw, 1) == lane.highest + 1
         and u16(raw, 21) > PROBE_PORT
         and u16(raw, 23) > 0
         and sub(raw, 33, 48) == NO_EXTENSIONS
         and u32(raw, 17) <= MAX_MESSAGE_BYTES
   end

   -- The peer has taken everything before `position`: a stream offset over TCP, a sequence over InfiniBand.
   function acknowledged(stream, direction, position, now)
      local lane = stream.lanes[direction]
      if position <= lane.acked then
         return
      end
      lane.acked = position
      local messages, index, tcp = lane.messages, lane.unacked, stream.tcp
      local last, count = nil, 0
      while index <= lane.count do
         local message = messages[index]
         if (tcp and message.finish or message.sequence) > position then
            break
         end
         last, count = message, count + 1
         index = index + 1
      end
      lane.unacked = index
      local count_of_acks = #lane.ack_positions + 1
      lane.ack_positions[count_of_acks], lane.ack_frames[count_of_acks] = position, now.number
      if last then
         insert(shows(now, "acks"), { last = last, count = count })
      end
   end

   -- The number of the frame that acknowledged a message, nil where none has.
   function acknowledging_frame(message)
      local lane = message.lane
      local wanted = message.tcp and message.finish or message.sequence
      if not message.tcp and wanted == 0 then
         return nil
      end
      local low, high = 1, #lane.ack_positions + 1
      while low < high do
         local middle = floor((low + high) / 2)
         if lane.ack_positions[middle] >= wanted then
            high = middle
         else
            low = middle + 1
         end
      end
      return lane.ack_frames[low]
   end

   -- The path of a message, as it was known when the message came.
   function path_at(message)
      return path_of(message.stream, message.number)
   end
end
