#include "trainer/packed_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

std::string_view format_string(PackedFormat format) {
  switch (format) {
    case PackedFormat::nvfp4:
      return "nvfp4-pack-quantized";
    case PackedFormat::mxfp4:
      return "mxfp4-pack-quantized";
    case PackedFormat::fp8:
      return "float-quantized";
    case PackedFormat::int8:
      return "int-quantized";
  }
  return "";
}

/// Of weights `per_row` names a row's scale, of activations the same of a token.
Json arguments(PackedFormat format, const Quantizer& quantizer, const char* per_row, const Json& dynamic) {
  const bool blocks = quantizer.blocks();
  Json object = {{"num_bits", quantizer.element->bits()},
                 {"type", format == PackedFormat::int8 ? "int" : "float"},
                 {"symmetric", true},
                 {"strategy", format == PackedFormat::nvfp4     ? "tensor_group"
                              : blocks                          ? "group"
                              : quantizer.extent == Extent::row ? per_row
                                                                : "tensor"},
                 {"group_size", blocks ? Json(quantizer.group) : Json()},
                 {"dynamic", dynamic}};
  if (blocks) object["scale_dtype"] = format == PackedFormat::nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8";
  return object;
}

Json activation_arguments(PackedFormat format, const Quantizer& input) {
  if (!input.quantizes()) return {};
  // Of NVFP4 the tensor's scale is one of the file, those of blocks are found when it runs.
  return arguments(format, input, "token", format == PackedFormat::nvfp4 ? Json("local") : Json(true));
}

}  // namespace

Json packed_config(const ParameterLayout& layout, const PackingPlan& plan, bool activations) {
  Json ignored = Json::array({"lm_head"});
  std::vector<std::pair<Json, Json>> groups;  // a scheme and the modules that follow it
  for (const ParameterInfo& info : layout.parameters()) {
    if (info.kind != ParameterKind::projection) continue;
    const auto& projection = plan.buffers[static_cast<size_t>(info.buffer)];
    if (!projection) {
      ignored.push_back(module_of(info.name));
      continue;
    }
    const Json scheme = {
        {"weights", arguments(plan.format, projection->quantizer, "channel", false)},
        {"input_activations", activations ? activation_arguments(plan.format, projection->input) : Json()},
        {"output_activations", nullptr},
        {"format", format_string(plan.format)}};
    auto group = std::ranges::find(groups, scheme, &std::pair<Json, Json>::first);
    if (group == groups.end()) group = groups.emplace(groups.end(), scheme, Json::array());
    group->second.push_back(module_of(info.name));
  }
  Json described = Json::object();
  for (size_t i = 0; i < groups.size(); ++i) {
    auto& [scheme, modules] = groups[i];
    Json& group = described[fmt::format("group_{}", i)];
    group["targets"] = groups.size() == 1 ? Json::array({"Linear"}) : modules;
    group.update(scheme);
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", format_string(plan.format)},
          {"quantization_status", "compressed"},
          {"config_groups", described},
          {"ignore", ignored},
          {"kv_cache_scheme", nullptr}};
}

}  // namespace nibble
