#include "model/parameters.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "tensor/error.hpp"

namespace nibble {

void ModelConfig::validate() const {
  const auto refuse = [](std::string what, std::string key, std::string seen, std::string allowed) {
    throw Error({.kind = ErrorKind::configuration,
                 .what = std::move(what),
                 .where = std::move(key),
                 .seen = std::move(seen),
                 .allowed = std::move(allowed)});
  };
  // Above any model there is, and small enough that no count of parameters overflows.
  constexpr int64_t largest_id = (int64_t{1} << 31) - 1, widest = 1 << 20, most = 1 << 16;
  struct Dimension {
    const char* key;
    int64_t value, largest;
  };
  const Dimension dimensions[] = {{"vocab", vocabulary, largest_id},
                                  {"width", width, widest},
                                  {"layers", layers, most},
                                  {"heads", heads, most},
                                  {"kv_heads", kv_heads, most},
                                  {"head_dim", head_dim, most},
                                  {"ffn", ffn, widest},
                                  {"context", context, largest_id}};
  for (const auto& [key, value, largest] : dimensions)
    if (value <= 0 || value > largest)
      refuse("a dimension of the model is out of range", fmt::format("model.{}", key), std::to_string(value),
             fmt::format("1 to {}", largest));
  if (query_width() > widest)
    refuse("the heads together are too wide", "model.heads, model.head_dim", fmt::format("{} x {}", heads, head_dim),
           fmt::format("at most {}", widest));
  if (heads % kv_heads != 0)
    refuse("query heads do not divide into key/value heads", "model.kv_heads", fmt::format("{} of {}", kv_heads, heads),
           "a divisor of model.heads");
  if (head_dim % 2 != 0) refuse("RoPE rotates pairs", "model.head_dim", std::to_string(head_dim), "an even number");
  if (!(norm_epsilon >= 0))
    refuse("a negative epsilon", "model.norm_epsilon", std::to_string(norm_epsilon), "0 or more");
  if (!(rope_theta > 0))
    refuse("RoPE's base is not positive", "model.rope_theta", std::to_string(rope_theta), "above 0");
  if (rope_scaling && !(rope_scaling->factor > 0 && rope_scaling->original_context > 0 &&
                        rope_scaling->high_frequency_factor > rope_scaling->low_frequency_factor))
    refuse("RoPE scaling makes no sense", "model.rope_scaling",
           fmt::format("factor {}, low {}, high {}, original context {}", rope_scaling->factor,
                       rope_scaling->low_frequency_factor, rope_scaling->high_frequency_factor,
                       rope_scaling->original_context),
           "factor > 0, high_frequency_factor > low_frequency_factor, original_context > 0");
}

ParameterLayout::ParameterLayout(const ModelConfig& config, bool learns_steps)
    : layers_(config.layers), tied_(config.tied), qk_norm_(config.qk_norm), learns_steps_(learns_steps) {
  const int64_t width = config.width, ffn = config.ffn;
  const auto part = [](std::string name, int64_t rows, int64_t cols, bool to_residual = false) {
    ParameterInfo info;
    info.name = std::move(name);
    info.rows = rows;
    info.cols = cols;
    info.to_residual = to_residual;
    return info;
  };
  add({"embedding", ParameterKind::embedding, config.vocabulary, width, -1},
      {part("model.embed_tokens.weight", config.vocabulary, width)});
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string name = fmt::format("model.layers.{}.", layer), block = fmt::format("layers.{}.", layer);
    const auto projection = [&](const char* suffix, int64_t rows, int64_t cols, std::vector<ParameterInfo> parts) {
      add({block + suffix, ParameterKind::projection, rows, cols, layer}, std::move(parts));
    };
    const auto norm = [&](const char* suffix) {
      add({block + suffix, ParameterKind::norm, 1, width, layer}, {part(name + suffix + ".weight", 1, width)});
    };
    norm("input_layernorm");
    projection("qkv", config.query_width() + 2 * config.kv_width(), width,
               {part(name + "self_attn.q_proj.weight", config.query_width(), width),
                part(name + "self_attn.k_proj.weight", config.kv_width(), width),
                part(name + "self_attn.v_proj.weight", config.kv_width(), width)});
    if (qk_norm_)
      add({block + "qk_norm", ParameterKind::norm, 2, config.head_dim, layer},
          {part(name + "self_attn.q_norm.weight", 1, config.head_dim),
           part(name + "self_attn.k_norm.weight", 1, config.head_dim)});
    projection("output", width, config.query_width(),
               {part(name + "self_attn.o_proj.weight", width, config.query_width(), true)});
    norm("post_attention_layernorm");
    projection("gate_up", 2 * ffn, width,
               {part(name + "mlp.gate_proj.weight", ffn, width), part(name + "mlp.up_proj.weight", ffn, width)});
    projection("down", width, ffn, {part(name + "mlp.down_proj.weight", width, ffn, true)});
  }
  add({"final_norm", ParameterKind::norm, 1, width, -1}, {part("model.norm.weight", 1, width)});
  if (!tied_)
    add({"head", ParameterKind::head, config.vocabulary, width, -1},
        {part("lm_head.weight", config.vocabulary, width)});
  if (!learns_steps) return;
  constexpr int64_t operands = 2 * std::ssize(projections);
  for (int layer = 0; layer < config.layers; ++layer)
    add({fmt::format("layers.{}.steps", layer), ParameterKind::step, 1, operands, layer},
        {part(fmt::format("model.layers.{}.quantizer_steps", layer), 1, operands)});
}

void ParameterLayout::add(BufferInfo buffer, std::vector<ParameterInfo> parts) {
  int64_t first_row = 0;
  for (ParameterInfo& info : parts) {
    info.kind = buffer.kind;
    info.layer = buffer.layer;
    info.buffer = static_cast<int>(buffers_.size());
    info.first_row = first_row;
    first_row += info.rows;
    parameters_.push_back(std::move(info));
  }
  buffers_.push_back(std::move(buffer));
}

int ParameterLayout::unit_of(int buffer) const {
  if (buffer == embedding()) return embedding_unit();
  const int layer = buffers_[static_cast<size_t>(buffer)].layer;
  return layer < 0 ? head_unit() : block_unit(layer);
}

Projection ParameterLayout::projection(int buffer) const {
  const int layer = buffers_[static_cast<size_t>(buffer)].layer;
  return buffer == qkv(layer)       ? Projection::qkv
         : buffer == output(layer)  ? Projection::output
         : buffer == gate_up(layer) ? Projection::gate_up
                                    : Projection::down;
}

std::vector<int> ParameterLayout::backward_order() const {
  std::vector<int> order;
  if (!tied_) order.push_back(head());
  order.push_back(final_norm());
  for (int layer = static_cast<int>(layers_) - 1; layer >= 0; --layer) {
    order.insert(order.end(), {down(layer), gate_up(layer), ffn_norm(layer), output(layer)});
    if (qk_norm_) order.push_back(qk_norm(layer));
    order.insert(order.end(), {qkv(layer), attention_norm(layer)});
    if (learns_steps_) order.push_back(steps(layer));
  }
  order.push_back(embedding());
  return order;
}

ParameterSet::ParameterSet(const ParameterLayout& layout, DType matrix, DType vector, bool padded,
                           const std::string& purpose, Residency residency, const CodeBits& code_bits, Place place)
    : factors_(layout.buffers().size(), 1.0f) {
  const auto view = [&](size_t buffer) {
    const BufferInfo& info = layout.buffers()[buffer];
    const int bits = code_bits.empty() ? 0 : code_bits[buffer];
    const DType type = bits > 0 ? DType::u8 : is_vector(info.kind) ? vector : matrix;
    const int64_t cols = bits > 0 ? info.cols / 8 * bits : info.cols;
    return Tensor(type, nullptr, info.rows, cols, padded ? padded_stride(type, cols) : cols, place);
  };
  // The buffer in whose memory a rotating set keeps this one: of block 0 or 1, or the embedding.
  const auto host = [&](int buffer) {
    if (residency == Residency::all) return buffer;
    if (buffer == layout.head()) return layout.embedding();
    const int layer = layout.buffers()[static_cast<size_t>(buffer)].layer;
    if (layer < 2) return buffer;
    if (buffer >= layout.steps(0)) return layout.steps(layer % 2);
    return buffer - layout.qkv(layer) + layout.qkv(layer % 2);
  };
  std::vector<int64_t> bytes(layout.buffers().size());  // of the largest buffer that lies in the memory of this one
  for (size_t buffer = 0; buffer < bytes.size(); ++buffer) {
    const Tensor& tensor = buffers_.emplace_back(view(buffer));
    int64_t& most = bytes[static_cast<size_t>(host(static_cast<int>(buffer)))];
    most = std::max(most, static_cast<int64_t>(bytes_of(tensor.dtype, tensor.rows, tensor.stride)));
  }
  const auto lay_out = [&](Arena& arena) {
    for (size_t buffer = 0; buffer < bytes.size(); ++buffer) {
      const auto in = static_cast<size_t>(host(static_cast<int>(buffer)));
      buffers_[buffer].data = in == buffer ? arena.take(DType::u8, 1, bytes[buffer]).data : buffers_[in].data;
    }
  };
  arena_ = Arena(purpose, lay_out, place);
  for (const ParameterInfo& info : layout.parameters())
    parameters_.push_back(buffers_[static_cast<size_t>(info.buffer)].slice_rows(info.first_row, info.rows));
}

}  // namespace nibble
