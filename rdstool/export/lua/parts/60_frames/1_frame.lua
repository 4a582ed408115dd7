-- The frame that is dissected, and what all watchers do.

local watching = true
local tcp_ports = {}
-- The frame that is dissected: its number, what `read_segment` needs of it, what that has read, whether it is shown, whether
-- the watcher at IP has seen what it carries, and whether it was dissected before.
local current, held, segment, done, taken, visited = nil, {}, nil, false, false, false
local newest -- the highest number of a frame so far
local lost_frames = {} -- on which Wireshark's dissectors gave up

local function rds_tcp_port(port)
   return tcp_ports[port] or false
end

local function now_of(pinfo)
   return { number = current, time = time_of(pinfo), messages = nil, parts = nil }
end

-- Let Wireshark's own dissector do its work.
local function pass_on(original, tvb, pinfo, tree)
   local fine, used = pcall(call_dissector, original, tvb, pinfo, tree)
   if fine then
      return used
   end
   gave_up(used)
   return captured_len(tvb)
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

-- Whether a frame is shown before Wireshark dissects it: where that may end in the middle, and nothing may be missing.
local function shows_first()
   return at_end or lost_frames[current]
end

-- Where nobody watches, what is known of the frame was noted before, in the first pass.
local function note_frame(pinfo)
   if not watching and current ~= pinfo.number then
      current, held.tvb, segment, done = pinfo.number, nil, nil, false
   end
end
