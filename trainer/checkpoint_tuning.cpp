#include "trainer/checkpoint_tuning.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>
#include <string>
#include <vector>

#include "data/json_fields.hpp"
#include "tensor/error.hpp"

namespace nibble {

using nlohmann::json;

bool check_tuning(json saved, json current, bool retune) {
  for (json* tuning : {&saved, &current})
    if (tuning->is_object()) tuning->erase(gpu_exchange_key);
  if (saved == current) return false;
  if (retune) return true;
  // Keys as paths, so that a difference deep inside is named by itself.
  const json saved_values = saved.flatten(), current_values = current.flatten();
  std::set<std::string> keys;
  for (const json& values : {saved_values, current_values})
    for (const auto& item : values.items()) keys.insert(item.key());
  const auto text = [](const json& values, const std::string& key) {
    return values.contains(key) ? excerpt(values.at(key)) : std::string("none");
  };
  std::vector<std::string> now, then;
  for (const std::string& key : keys) {
    const std::string now_text = text(current_values, key), then_text = text(saved_values, key);
    if (now_text == then_text) continue;
    const std::string shown = key.starts_with('/') ? key.substr(1) : key;
    now.push_back(fmt::format("{} {}", shown, now_text));
    then.push_back(fmt::format("{} {}", shown, then_text));
  }
  throw Error(
      {.kind = ErrorKind::configuration,
       .what = "the run was tuned for another machine or other libraries, so its numbers would change",
       .where = "tuning",
       .seen = fmt::format("{}", fmt::join(now, ", ")),
       .allowed = fmt::format("{}, as the checkpoint recorded", fmt::join(then, ", ")),
       .next = "resume where the run began, set run.threads as recorded, or accept other numbers with --retune"});
}

}  // namespace nibble
