#include "tensor/memory.hpp"

#include <mutex>

namespace nibble {
namespace {

struct Ledger {
  std::mutex mutex;
  std::map<std::string, MemoryAccount> accounts[2];  // by place; nodes never move and are never removed

  std::map<std::string, MemoryAccount>& of(Place place) { return accounts[static_cast<size_t>(place)]; }
};

/// Never destroyed: buffers of threads and of static objects close their accounts after main.
Ledger& ledger() {
  static Ledger& instance = *new Ledger;
  return instance;
}

}  // namespace

size_t total(const MemoryTable& table) {
  size_t sum = 0;
  for (const auto& [purpose, bytes] : table) sum += bytes;
  return sum;
}

MemoryTable held_memory(Place place) { return held_memory_since({}, place); }

MemoryTable held_memory_since(const MemoryTable& before, Place place) {
  const std::lock_guard lock(ledger().mutex);
  MemoryTable table;
  for (const auto& [purpose, account] : ledger().of(place)) {
    const auto then = before.find(purpose);
    const size_t now = account, less = then == before.end() ? 0 : then->second;
    if (now > less) table.emplace(purpose, now - less);
  }
  return table;
}

MemoryAccount& memory_account(const std::string& purpose, Place place) {
  const std::lock_guard lock(ledger().mutex);
  return ledger().of(place)[purpose.empty() ? "other" : purpose];
}

}  // namespace nibble
