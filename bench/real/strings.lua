-- Lua that lives from strings: concatenation, gsub, gmatch, table.concat, sorting.
local words = {}
local seed = 42
local function random(n)
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed // 65536 % n
end
for i = 1, 60000 do
  local letters = {}
  for j = 1, 3 + random(9) do letters[j] = string.char(97 + random(26)) end
  words[i] = table.concat(letters)
end
local text = table.concat(words, " ")
local counts, order = {}, {}
for _ = 1, 4 do
  for word in text:gmatch("%a+") do
    local key = word:sub(1, 4):upper() .. #word
    if not counts[key] then order[#order + 1] = key end
    counts[key] = (counts[key] or 0) + 1
  end
end
table.sort(order, function(a, b) return counts[a] > counts[b] or counts[a] == counts[b] and a < b end)
local out = {}
for i, key in ipairs(order) do out[i] = string.format("%s=%d", key, counts[key]) end
local joined = table.concat(out, ";"):gsub("%d+", function(d) return "<" .. d .. ">" end)
local line = ""
for i = 1, 4000 do line = line .. words[i] end
print(#joined, #line, #text:gsub("[aeiou]", "**"))
