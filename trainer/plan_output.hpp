// A plan as text for people and as JSON for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trainer/run_plan.hpp"

namespace nibble {

std::string plan_text(const RunPlan& plan);
nlohmann::ordered_json plan_json(const RunPlan& plan);

}  // namespace nibble
