-- Find message boundaries again in a TCP stream whose framing was lost, or was never seen. One plausible header proves
-- nothing: a chain of headers does, each lying where the length of the one before says, with sequences that go on.

local FILLER, look
do
   local EVIDENCE = 3 -- points that a chain needs
   local SEQUENCE_STEP = 65536
   local SLACK = 16
   local MAX_CANDIDATES = 8192
   FILLER = "\255" -- stands for bytes that the capture lacks; as flags, it makes no plausible header

   local function plausible(data, at)
      if byte(data, at) ~= 0 or byte(data, at + 16) ~= 0 or byte(data, at + 17) > 16 or byte(data, at + 25) ~= 0 then
         return false
      end
      return oddities(data, at) == 0
   end

   -- All places in `data` at which 48 bytes could be a header, ascending; `origin` is the stream offset of its first byte.
   local function candidates_in(data, origin)
      local found = {}
      local last = #data - HEADER_BYTES + 1
      local at = find(data, ZERO8, 9, true)
      while at do
         local begin = at - 8
         if begin > last or #found >= MAX_CANDIDATES then
            break
         end
         if plausible(data, begin) then
            insert(found, {
               position = origin + begin - 1,
               sequence = u64(data, begin),
               flags = byte(data, begin + 24),
               length = u32(data, begin + 16),
               chain = 1,
            })
         end
         at = find(data, ZERO8, at + 1, true)
      end
      return found
   end

   -- Whether two headers can follow each other on one connection.
   local function goes_on(header, after)
      if header.flags == CONG_BITMAP or after.flags == CONG_BITMAP then
         return true
      elseif header.flags == RETRANSMITTED or after.flags == RETRANSMITTED then
         return true
      end
      local step = after.sequence - header.sequence
      return step > 0 and step <= SEQUENCE_STEP
   end

   -- Search stream bytes that begin at `origin`. `segments` tells where segments start and end, and what is missing.
   -- Returns the boundary, or nil and the offset from which on bytes may still belong to a chain.
   function look(search, data, origin, segments, final)
      local limit = origin + #data
      local candidates = candidates_in(data, origin)
      local by_position = {}
      for _, item in ipairs(candidates) do
         by_position[item.position] = item
      end
      for index = #candidates, 1, -1 do
         local item = candidates[index]
         item.last_end = item.position + HEADER_BYTES + item.length
         local after = by_position[item.last_end]
         if after and goes_on(item, after) then
            item.chain = item.chain + after.chain
            item.last_end, item.open, item.cut = after.last_end, after.open, after.cut
         else
            item.open = item.last_end + HEADER_BYTES > limit
            item.cut = not item.open and segments.missing(item.last_end, item.last_end + HEADER_BYTES) > 0
         end
      end
      for _, item in ipairs(candidates) do
         local points = item.chain
         if segments.starts[item.position] then
            points = points + 1
         end
         if segments.ends[item.last_end] then
            points = points + 1
         end
         local step = item.sequence - search.last_sequence
         local room = floor((item.position - search.since) / HEADER_BYTES) + SLACK
         if search.last_sequence > 0 and step > 0 and step <= room then
            points = points + 1
         end
         local all_there_is = item.cut or (item.open and (final or item.chain > 1))
         if item.chain >= EVIDENCE or (all_there_is and points >= EVIDENCE) then
            return item.position
         end
      end
      local keep_from = max(origin, limit - HEADER_BYTES + 1)
      if not final then
         for _, item in ipairs(candidates) do
            if item.open then
               return nil, min(keep_from, item.position)
            end
         end
      end
      return nil, keep_from
   end
end
