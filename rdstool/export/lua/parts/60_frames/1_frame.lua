-- The frame that is dissected, and what all watchers do.

local watching = true
local tcp_ports = {}
-- The frame that is dissected: its number, what `read_segment` needs of it, what that has read, whether it is shown, and
-- whether the watcher at IP has seen what it carries.
local current, held, segment, done, taken = nil, {}, nil, false, false
local switched_on -- whether RDS is; nil until Wireshark has called its dissector, or has been asked to
local newest -- the highest number of a frame so far
local lost_frames = {} -- on which Wireshark's dissectors gave up

-- Most packets go where others went before. Their addresses and ports, as they lie behind one another in IPv4 without options
-- -> how these packets are taken and shown, whether all of one is read at once, and who they are for.
local IPV4_BYTES, ROUTE_FROM, ROUTE_TO = 20, 13, 24
local routes, route_count = {}, 0

local function remember_route(head, route)
   local MAX_ROUTES = 65536
   if route_count >= MAX_ROUTES then
      routes, route_count = {}, 0
   end
   routes[sub(head, ROUTE_FROM, ROUTE_TO)], route_count = route, route_count + 1
end

local function rds_tcp_port(port)
   return tcp_ports[port] or false
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

-- Whether RDS is switched on: Wireshark calls no dissector of a protocol that is not. Where it has not called that of RDS
-- so far, it is asked to, with nothing, of which it shows nothing. `tvb` is of this frame.
local function is_switched_on(tvb, pinfo, root)
   if switched_on == nil then
      switched_on = false
      call_dissector(Dissector.get("rds"), tvb(0, 0):tvb(), pinfo, root)
      if not switched_on then
         shown[current] = nil
      end
   end
   return switched_on
end

local function show_once(tvb, pinfo, root)
   local frame = not done and shown[current]
   if frame then
      done = true
      if visited or not (part_unwanted and frame.part) then
         show_frame(frame, tvb, pinfo, root)
      end
   end
end

-- Show what no dissector has handed on to RDS. `watched` is what a watcher sees.
local function show_directly(watched, tvb, pinfo, root)
   if not done and shown[current] and is_switched_on(watched, pinfo, root) then
      show_once(tvb, pinfo, root)
   end
end

-- Whether a frame is shown before Wireshark dissects it: where that may end in the middle, and nothing may be missing.
local function shows_first()
   return at_end or lost_frames[current]
end

-- Let Wireshark's own dissector do its work on what is shown already. The columns are to stay as they are then.
local function pass_on_shown(original, tvb, pinfo, tree)
   local frame = done and shown[current]
   if not (frame and (frame.messages or frame.cm)) then
      return pass_on(original, tvb, pinfo, tree)
   end
   local columns = columns_of(pinfo)
   local protocol, info = tostring(columns.protocol), tostring(columns.info)
   local used = pass_on(original, tvb, pinfo, tree)
   columns.protocol, columns.info = protocol, info
   return used
end

-- Wireshark calls RDS. Where nobody watches, what is known of the frame was noted before, in the first pass.
local function note_frame(pinfo)
   switched_on = true
   if not watching and current ~= pinfo.number then
      current, held.tvb, segment, done, visited = pinfo.number, nil, nil, false, true
   end
end
