-- The plugin itself: a new capture, ports, heuristics.

function rds.init()
   local had_streams = streams ~= nil and #streams > 0
   start_capture()
   start_tcp()
   start_infiniband()
   start_cm()
   routes, route_count = {}, 0
   odd_ends, lost_frames, newest, switched_on = {}, {}, 0, nil
   if at_ip then
      put_inside("links")
   end
   if had_streams then
      collectgarbage() -- what the last capture left, of which nothing is known any more
   end
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
