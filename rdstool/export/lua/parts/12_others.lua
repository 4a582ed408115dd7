-- Wireshark, and the other dissectors that it has.

-- Whether it is of this version or later.
local function is_wireshark(wanted_major, wanted_minor)
   local major, minor = get_version():match("^(%d+)%.(%d+)")
   major, minor = tonumber(major) or 0, tonumber(minor) or 0
   return major > wanted_major or major == wanted_major and minor >= wanted_minor
end

-- Another dissector gave up. On what, it has shown already: that is no error of this script. Others are.
-- (The text behind the name is garbage in 4.4 where a dissector has a bug.)
local function gave_up(problem)
   if not find(tostring(problem), "Dissector%w*_%w+: ") then
      error(problem, 0)
   end
end

-- Let another dissector do its work, or give up.
local function hand_over(call, ...)
   local fine, problem = pcall(call, ...)
   if not fine then
      gave_up(problem)
   end
end
