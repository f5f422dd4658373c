-- Lua that lives from small objects: trees, closures, tables that grow, objects with methods.
local function tree(depth)
  if depth == 0 then return { value = 1 } end
  return { left = tree(depth - 1), right = tree(depth - 1), value = depth }
end

local function sum(node)
  return node.value + (node.left and sum(node.left) + sum(node.right) or 0)
end

local total = 0
for _ = 1, 40 do total = total + sum(tree(13)) end

local Account = {}
Account.__index = Account
local accounts = {}
for i = 1, 60000 do
  accounts[i] = setmetatable({ owner = "owner" .. i, balance = i, history = {} }, Account)
end
function Account:deposit(amount)
  self.balance = self.balance + amount
  self.history[#self.history + 1] = amount
end
for round = 1, 6 do
  for _, account in ipairs(accounts) do account:deposit(round) end
end

local counters = {}
for i = 1, 100000 do
  local n = 0
  counters[i] = function() n = n + i return n end
end
for _, counter in ipairs(counters) do total = total + counter() end
print(total)
