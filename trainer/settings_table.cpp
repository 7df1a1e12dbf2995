#include "trainer/settings_table.hpp"

#include <algorithm>
#include <utility>

#include "data/synthetic_language.hpp"
#include "optim/moment.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/nearest.hpp"
#include "trainer/presets.hpp"

namespace nibble {
namespace {

using enum SettingType;

constexpr double most = 1e15;  // counts; doubles hold every whole number up to 9e15
constexpr Range any_count{.low = 0, .high = most};
constexpr Range some_count{.low = 1, .high = most};
constexpr Range positive{.low = 0, .low_excluded = true};
constexpr Range not_negative{.low = 0};
constexpr Range unit_interval{.low = 0, .high = 1};
constexpr Range below_one{.low = 0, .high = 1, .high_excluded = true};

std::vector<std::string> preset_choices() {
  std::vector<std::string> choices = preset_names();
  choices.insert(choices.begin(), "none");
  return choices;
}

/// The member that a row fills; the alternative of SettingMember follows from its type.
#define NIBBLE_MEMBER(expression) +[](Settings& s) -> decltype((s.expression)) { return s.expression; }

// clang-format off
std::vector<Setting> make_table() {
  return {
    {"model.preset", choice, NIBBLE_MEMBER(model.preset),
     "named shape; dimensions given beside it replace its own", {}, preset_choices(), true},
    {"model.width", count, NIBBLE_MEMBER(model.width),
     "width of the residual stream (0: the preset's)", any_count, {}, true},
    {"model.layers", count, NIBBLE_MEMBER(model.layers), "transformer blocks (0: the preset's)", any_count, {}, true},
    {"model.heads", count, NIBBLE_MEMBER(model.heads), "query heads (0: the preset's)", any_count, {}, true},
    {"model.kv_heads", count, NIBBLE_MEMBER(model.kv_heads),
     "key and value heads; divides heads (0: as many as heads)", any_count, {}, true},
    {"model.head_dim", count, NIBBLE_MEMBER(model.head_dim),
     "width of a head (0: the preset's, or width / heads)", any_count, {}, true},
    {"model.ffn", count, NIBBLE_MEMBER(model.ffn),
     "width of gate and up (0: the preset's, or 8/3 width rounded up to 256)", any_count, {}, true},
    {"model.vocab", count, NIBBLE_MEMBER(model.vocab),
     "token ids (0: the preset's, or the tokenizer's)", any_count, {}, true},
    {"model.context", count, NIBBLE_MEMBER(model.context),
     "longest sequence the model is meant for, in tokens (0: data.sequence)", any_count, {}, true},
    {"model.rope_theta", real, NIBBLE_MEMBER(model.rope_theta), "base of the rotary embedding", positive, {}, true},
    {"model.norm_epsilon", real, NIBBLE_MEMBER(model.norm_epsilon),
     "added to the mean square in RMSNorm", positive, {}, true},
    {"model.tied", boolean, NIBBLE_MEMBER(model.tied), "the head is the embedding", {}, {}, true},
    {"model.qk_norm", boolean, NIBBLE_MEMBER(model.qk_norm),
     "query and key heads are normalised before RoPE, which bounds attention's logits (Qwen3)", {}, {}, true},
    {"model.init_std", real, NIBBLE_MEMBER(model.init_std),
     "standard deviation of new weights; o_proj and down_proj: this / sqrt(2 layers)", positive, {}, true},
    {"model.mup_base_width", count, NIBBLE_MEMBER(model.mup_base_width),
     "muP: the width at which init_std and learning rates were tuned, and from which they are carried over to this one "
     "(0: they are this model's own)", any_count, {}, true},
    {"model.recompute", choice, NIBBLE_MEMBER(model.recompute),
     "block: keep only each block's input; its activations are computed again backward", {}, {"none", "block"}},
    {"model.from", path, NIBBLE_MEMBER(model.from),
     "checkpoint or Hugging Face folder whose weights and shape to start from (empty: new weights)"},
    {"model.rope_scaling.factor", real, NIBBLE_MEMBER(model.rope_scaling.factor),
     "Llama 3 scaling of low frequencies (0: off)", not_negative, {}, true},
    {"model.rope_scaling.low_frequency_factor", real, NIBBLE_MEMBER(model.rope_scaling.low_frequency_factor),
     "wavelengths above original_context / this are scaled in full", positive, {}, true},
    {"model.rope_scaling.high_frequency_factor", real, NIBBLE_MEMBER(model.rope_scaling.high_frequency_factor),
     "wavelengths below original_context / this stay as they are", positive, {}, true},
    {"model.rope_scaling.original_context", count, NIBBLE_MEMBER(model.rope_scaling.original_context),
     "context before scaling, in tokens", some_count, {}, true},

    {"data.train", path, NIBBLE_MEMBER(data.train), "training tokens (nibble tokenize)"},
    {"data.validation", path, NIBBLE_MEMBER(data.validation), "validation tokens (empty: none)"},
    {"data.sequence", count, NIBBLE_MEMBER(data.sequence), "tokens per sequence", some_count, {}, true},
    {"data.packing", choice, NIBBLE_MEMBER(data.packing),
     "stream: windows over all text; documents: whole documents, padded", {}, {"stream", "documents"}, true},
    {"data.mask_documents", boolean, NIBBLE_MEMBER(data.mask_documents),
     "attention stays within a document; packing: documents implies it", {}, {}, true},
    {"data.synthetic.vocabulary", count, NIBBLE_MEMBER(data.synthetic.vocabulary),
     "tokens of a language that is made up and endless, in place of files (0: none)",
     {.low = 0, .high = SyntheticOptions::most_tokens}, {}, true},
    {"data.synthetic.order", count, NIBBLE_MEMBER(data.synthetic.order),
     "how many tokens back tell of the next token, each for itself",
     {.low = 1, .high = SyntheticOptions::longest_context}, {}, true},
    {"data.synthetic.zipf", real, NIBBLE_MEMBER(data.synthetic.zipf),
     "a token's frequency falls with its rank to this power", {.low = 0, .high = SyntheticOptions::steepest}, {}, true},
    {"data.synthetic.noise", share, NIBBLE_MEMBER(data.synthetic.noise),
     "of tokens of which none before tells more than their octave of frequencies", unit_interval, {}, true},
    {"data.synthetic.seed", count, NIBBLE_MEMBER(data.synthetic.seed),
     "of the language and of what it is validated on; run.seed draws what is trained on", any_count, {}, true},

    {"batch.tokens", count, NIBBLE_MEMBER(batch.tokens),
     "tokens per optimizer step; a multiple of micro x sequence", any_count, {}, true},
    {"batch.micro", count, NIBBLE_MEMBER(batch.micro), "sequences per forward pass", some_count, {}, true},
    {"batch.lanes", count, NIBBLE_MEMBER(batch.lanes),
     "partial sums of the gradient, joined in a fixed tree", some_count, {}, true},

    {"steps", count, NIBBLE_MEMBER(steps), "optimizer steps (one of steps, tokens, epochs)", any_count},
    {"tokens", count, NIBBLE_MEMBER(tokens), "tokens to train on, rounded down to whole steps", any_count},
    {"epochs", real, NIBBLE_MEMBER(epochs),
     "passes over the training tokens, rounded down to whole steps", not_negative},
    {"shard", choice, NIBBLE_MEMBER(shard),
     "what each rank keeps only its part of: this and all before it (ZeRO 1, 2, 3)", {},
     {"none", "optimizer", "gradients", "parameters"}},

    {"precision.recipe", recipe, NIBBLE_MEMBER(precision.recipe),
     "arithmetic of the linear layers; weights have fp32 masters", {}, {}, true},
    {"precision.forward", recipe, NIBBLE_MEMBER(precision.forward),
     "its forward pass as another recipe has it (empty: its own)", {}, {}, true},
    {"precision.backward", recipe, NIBBLE_MEMBER(precision.backward),
     "its backward pass as another recipe has it (empty: its own)", {}, {}, true},
    {"precision.overrides", overrides, NIBBLE_MEMBER(precision.overrides),
     "other recipes for some layers, projections, steps; of several the last one counts", {}, {}, true},
    {"precision.recipes", recipes, NIBBLE_MEMBER(precision.recipes),
     "recipes written out, which the settings above may name", {}, {}, true},
    {"precision.keep_bf16.first", count, NIBBLE_MEMBER(precision.keep_bf16.first),
     "first blocks that multiply bf16, whatever is said above", any_count, {}, true},
    {"precision.keep_bf16.last", count, NIBBLE_MEMBER(precision.keep_bf16.last), "last blocks that do", any_count, {}, true},
    {"precision.cage.strength", real, NIBBLE_MEMBER(precision.cage.strength),
     "CAGE: how strongly masters are drawn to their quantized values at the end of the run (0: not; the paper: 10)",
     not_negative, {}, true},
    {"precision.cage.silence", real, NIBBLE_MEMBER(precision.cage.silence),
     "part of the steps before the pull begins", below_one, {}, true},

    {"optimizer.name", choice, NIBBLE_MEMBER(optimizer.name),
     "adamw, sgd with momentum, ademamix; muon, normuon, mars-m, shampoo, soap: of projections, adamw for the rest; "
     "all: decoupled decay, times the scheduled learning rate", {}, optimizer_names, true},
    {"optimizer.learning_rate", real, NIBBLE_MEMBER(optimizer.learning_rate), "peak learning rate", positive},
    {"optimizer.weight_decay", real, NIBBLE_MEMBER(optimizer.weight_decay),
     "per step: weights times 1 - learning rate x this", not_negative},
    {"optimizer.decay", choice, NIBBLE_MEMBER(optimizer.decay),
     "what of a weight_decay: all elements; cautious: those that the update makes smaller", {},
     {"decoupled", "cautious"}},
    {"optimizer.beta1", real, NIBBLE_MEMBER(optimizer.beta1),
     "memory of the first moment (shampoo, soap: 0.95)", below_one},
    {"optimizer.beta2", real, NIBBLE_MEMBER(optimizer.beta2),
     "memory of the second moment; normuon: of the rows' squares; shampoo, soap: of both factors too", below_one},
    {"optimizer.epsilon", real, NIBBLE_MEMBER(optimizer.epsilon),
     "added to the root of the corrected second moment", positive},
    {"optimizer.momentum", real, NIBBLE_MEMBER(optimizer.momentum), "sgd: memory of gradients (0: none)", below_one},
    {"optimizer.clip", real, NIBBLE_MEMBER(optimizer.clip),
     "largest global gradient norm (0: no clipping)", not_negative},
    {"optimizer.qk_clip", real, NIBBLE_MEMBER(optimizer.qk_clip),
     "after a step, query and key weights of heads whose largest logit of attention was above this are scaled down to "
     "it (0: not; Kimi K2: 100)", not_negative},
    {"optimizer.moments", choice, NIBBLE_MEMBER(optimizer.moments),
     "what moments are kept in between steps; 8-bit: codes with a scale each block, but f32 of the embedding and of what has "
     "fewer than 4096 elements", {}, moment_precision_names, true},
    {"optimizer.offload", choice, NIBBLE_MEMBER(optimizer.offload),
     "on a GPU, what of the optimizer lies in the host's memory and comes to it piece by piece in each step, with the "
     "same numbers; masters: those and the moments", {}, {"none", "moments", "masters"}},
    {"optimizer.no_decay", list, NIBBLE_MEMBER(optimizer.no_decay),
     "names of parameters without decay; * stands for any characters (QuEST and Quartet: lm_head.weight too)"},
    {"optimizer.groups", overrides, NIBBLE_MEMBER(optimizer.groups),
     "parameters, by patterns of their names, that have an optimizer, a learning rate, a decay or a precision of moments of their own", {}, {},
     true},
    {"optimizer.muon.momentum", real, NIBBLE_MEMBER(optimizer.muon.momentum), "memory of gradients", below_one},
    {"optimizer.muon.nesterov", boolean, NIBBLE_MEMBER(optimizer.muon.nesterov),
     "the gradient counts once more, as after the step to come; not in mars-m"},
    {"optimizer.muon.scale", choice, NIBBLE_MEMBER(optimizer.muon.scale),
     "times the learning rate; moonlight: 0.2 sqrt(longer side), for adamw's learning rates; original: sqrt(rows / cols), "
     "at least 1; spectral: sqrt(rows / cols)", {}, {"moonlight", "original", "spectral"}},
    {"optimizer.muon.coefficients", choice, NIBBLE_MEMBER(optimizer.muon.coefficients),
     "of Newton-Schulz: singular values end in 0.68 to 1.20, 0.98 to 1.03, 0.86 to 1.14 (of 0.01 of the norm or more)", {},
     {"classic", "tuned", "polar-express"}},
    {"optimizer.muon.steps", count, NIBBLE_MEMBER(optimizer.muon.steps), "of Newton-Schulz", {.low = 1, .high = 100}},
    {"optimizer.muon.products", choice, NIBBLE_MEMBER(optimizer.muon.products),
     "operands of its products; sums are f32", {}, {"bf16", "f32"}},
    {"optimizer.ademamix.beta3", real, NIBBLE_MEMBER(optimizer.ademamix.beta3), "memory of the slow moment", below_one},
    {"optimizer.ademamix.alpha", real, NIBBLE_MEMBER(optimizer.ademamix.alpha),
     "the slow moment's part of a step", not_negative},
    {"optimizer.ademamix.warmup", steps_or_share, NIBBLE_MEMBER(optimizer.ademamix.warmup),
     "steps until alpha and beta3 have their values", any_count},
    {"optimizer.shampoo.every", count, NIBBLE_MEMBER(optimizer.shampoo.every),
     "steps between inverse roots of the factors; before the first ones a step is what is grafted", some_count},
    {"optimizer.shampoo.max_side", count, NIBBLE_MEMBER(optimizer.shampoo.max_side),
     "longest side of a matrix that has a factor", some_count, {}, true},
    {"optimizer.shampoo.exponent", real, NIBBLE_MEMBER(optimizer.shampoo.exponent),
     "of the inverse root of each factor: 0.25 of both together a square root",
     {.low = 0, .high = 1, .low_excluded = true}},
    {"optimizer.shampoo.epsilon", real, NIBBLE_MEMBER(optimizer.shampoo.epsilon),
     "added to the factors' eigenvalues; more than 1e-8 harms", {.low = 1e-30, .high = 1}},
    {"optimizer.shampoo.grafting", choice, NIBBLE_MEMBER(optimizer.shampoo.grafting),
     "whose length a step of each matrix has: adam's, that of sgd's momentum, or its own", {}, {"adam", "sgd", "none"},
     true},
    {"optimizer.soap.every", count, NIBBLE_MEMBER(optimizer.soap.every),
     "steps between new bases, each by a power iteration and QR", some_count},
    {"optimizer.soap.max_side", count, NIBBLE_MEMBER(optimizer.soap.max_side),
     "longest side of a matrix that is rotated", some_count, {}, true},
    {"optimizer.soap.factor_beta", real, NIBBLE_MEMBER(optimizer.soap.factor_beta),
     "memory of the factors, whose eigenvectors the bases are (0: beta2)", below_one},

    {"schedule.name", choice, NIBBLE_MEMBER(schedule.name),
     "learning rate over the run; onecycle: QuEST's and Quartet's", {}, {"cosine", "wsd", "onecycle", "constant"}},
    {"schedule.warmup", steps_or_share, NIBBLE_MEMBER(schedule.warmup), "steps until the peak", any_count},
    {"schedule.final", share, NIBBLE_MEMBER(schedule.final),
     "learning rate at the end, as a share of the peak", unit_interval},
    {"schedule.decay", steps_or_share, NIBBLE_MEMBER(schedule.decay), "wsd: steps of the decay at the end", any_count},
    {"schedule.decay_shape", choice, NIBBLE_MEMBER(schedule.decay_shape),
     "wsd: linear, or sqrt: 1 - sqrt(x), a fast drop with a long tail", {}, {"linear", "sqrt"}},

    {"loss.z_loss", real, NIBBLE_MEMBER(loss.z_loss),
     "what is learned adds this times (log sum exp of a token's logits)^2, which keeps logits from drifting; the loss "
     "that is shown does not (PaLM: 1e-4)", not_negative},

    {"gradients.exchange", choice, NIBBLE_MEMBER(gradients.exchange),
     "how ranks sum their gradients; dense: every value; sparcml: the largest; quantized: codes; marina, ef21: of what "
     "has changed; lattice: of how far ranks are apart", {},
     {"dense", "sparcml", "quantized", "marina", "ef21", "lattice"}, true},
    {"gradients.wire", choice, NIBBLE_MEMBER(gradients.wire),
     "type in which values travel that are sent as they are; f32 gives the dense sums of one rank", {}, {"f32", "bf16"},
     true},
    {"gradients.codec", text, NIBBLE_MEMBER(gradients.codec),
     "codes that travel, or how sparcml's dense sums do (empty: the exchange's own); also permutation, random, top-k", {},
     {}, true},
    {"gradients.bucket", count, NIBBLE_MEMBER(gradients.bucket), "values with one scale of codes",
     {.low = 8, .high = 1 << 20}, {}, true},
    {"gradients.density", share, NIBBLE_MEMBER(gradients.density), "of values that top-k and random send",
     {.low = 0, .high = 1, .low_excluded = true}, {}, true},
    {"gradients.select", choice, NIBBLE_MEMBER(gradients.select),
     "top-k: of every 512 values, or of all that travel together", {}, {"buckets", "all"}, true},
    {"gradients.algorithm", choice, NIBBLE_MEMBER(gradients.algorithm),
     "way of a sparse sum; auto: the fastest on the links as measured at the start, dense too", {},
     {"auto", "recursive_doubling", "split", "dense_split"}, true},
    {"gradients.error_feedback", choice, NIBBLE_MEMBER(gradients.error_feedback),
     "what was not sent is added to the next step's gradient; auto: where codes are biased", {},
     {"auto", "true", "false"}, true},
    {"gradients.warmup", steps_or_share, NIBBLE_MEMBER(gradients.warmup), "first steps, which are dense", any_count, {},
     true},
    {"gradients.full_probability", share, NIBBLE_MEMBER(gradients.full_probability),
     "marina: of steps that send gradients in full (0: the share of bytes that the others send)", unit_interval, {}, true},
    {"gradients.full_batches", count, NIBBLE_MEMBER(gradients.full_batches),
     "marina: batches of tokens of which those steps are; those of the steps to come", some_count, {}, true},
    {"gradients.allow_noisy_difference", boolean, NIBBLE_MEMBER(gradients.allow_noisy_difference),
     "marina with a quantized recipe, whose rounding may be larger than the differences", {}, {}, true},
    {"gradients.hierarchical", boolean, NIBBLE_MEMBER(gradients.hierarchical),
     "full precision among the ranks of a host, compressed between hosts", {}, {}, true},
    {"gradients.virtual_ranks", count, NIBBLE_MEMBER(gradients.virtual_ranks),
     "ranks whose exchange one process plays, each with its share of the micro-batches (0: none)", {.low = 0, .high = 1024},
     {}, true},
    {"gradients.overrides", overrides, NIBBLE_MEMBER(gradients.overrides),
     "another exchange for some layers; of several the last one counts", {}, {}, true},

    {"weights.gather", choice, NIBBLE_MEMBER(weights.gather),
     "what shard: parameters sends of weights before they are used: the working copy; codes: of layers whose recipe has "
     "one scale for the weight, its codes, with the same numbers", {}, {"working", "codes"}},

    {"validation.every", count, NIBBLE_MEMBER(validation.every),
     "steps between validations (0: at the end only)", any_count},
    {"validation.tokens", count, NIBBLE_MEMBER(validation.tokens), "validation tokens to use (0: all; of a synthetic language 65536)", any_count},

    {"run.seed", count, NIBBLE_MEMBER(run.seed), "key of all random numbers", any_count, {}, true},
    {"run.device", choice, NIBBLE_MEMBER(run.device), "where the run computes: the processor, or a GPU for each rank", {},
     {"cpu", "cuda"}},
    {"run.gpu_exchange", choice, NIBBLE_MEMBER(run.gpu_exchange),
     "how GPUs send to each other: nccl; staged: through the host, also where ranks share a GPU; hierarchical: NCCL within "
     "hosts, MPI between them; auto: as the run has done, or nccl where each rank has it and a GPU of its own, else staged",
     {}, {"auto", "nccl", "staged", "hierarchical"}},
    {"run.gpu_graphs", boolean, NIBBLE_MEMBER(run.gpu_graphs),
     "on a GPU, give it each block's pass at once, as a CUDA graph: with the same numbers"},
    {"run.gpu_attention", choice, NIBBLE_MEMBER(run.gpu_attention),
     "who computes attention on a GPU; cudnn: a program that was built with cuDNN's frontend, in bf16",
     {}, {"own", "cudnn"}},
    {"run.threads", count, NIBBLE_MEMBER(run.threads), "threads (0: all cores)", {.low = 0, .high = 4096}},
    {"run.directory", path, NIBBLE_MEMBER(run.directory), "where results are written"},
    {"run.branch", path, NIBBLE_MEMBER(run.branch),
     "run or checkpoint whose state this run begins with, under its own schedule; steps count from the trunk's first "
     "(empty: none)"},
    {"run.progress", duration, NIBBLE_MEMBER(run.progress),
     "time between progress lines where the output is no terminal", not_negative},
    {"run.max_refused", count, NIBBLE_MEMBER(run.max_refused),
     "refused steps in a row (loss or gradient not finite) that end the run", some_count},
    {"run.sample", text, NIBBLE_MEMBER(run.sample), "prompt of a text generated at the end (empty: none)"},
    {"run.sample_tokens", count, NIBBLE_MEMBER(run.sample_tokens), "length of that text, in tokens", some_count},
    {"run.temperature", real, NIBBLE_MEMBER(run.temperature),
     "of that text (0: the likeliest token each time)", not_negative},
    {"run.checkpoint.every", count, NIBBLE_MEMBER(run.checkpoint.every),
     "steps between checkpoints (0: at the end only)", any_count},
    {"run.checkpoint.interval", duration, NIBBLE_MEMBER(run.checkpoint.interval),
     "time between checkpoints, beside run.checkpoint.every (0: off)", not_negative},
    {"run.checkpoint.keep", count, NIBBLE_MEMBER(run.checkpoint.keep), "newest checkpoints that are kept", some_count},
    {"run.checkpoint.keep_every", count, NIBBLE_MEMBER(run.checkpoint.keep_every),
     "steps whose multiples are kept for ever (0: none)", any_count},
    {"run.checkpoint.background", boolean, NIBBLE_MEMBER(run.checkpoint.background),
     "save a copy of the state, in memory, while training goes on; false: training waits and needs none"},
    {"run.operands.every", count, NIBBLE_MEMBER(run.operands.every),
     "steps between records of what quantization does to each operand (0: none)", any_count},
    {"run.updates.every", count, NIBBLE_MEMBER(run.updates.every),
     "steps between records of how long each optimizer's updates are and how nearly orthogonal (0: none)", any_count},
  };
}
// clang-format on

#undef NIBBLE_MEMBER

constexpr std::pair<std::string_view, std::string_view> sections[] = {
    {"model", "the Llama to train"},
    {"model.rope_scaling", "Llama 3.1's rotary embedding for long contexts"},
    {"data", "token shards and how sequences are cut from them"},
    {"data.synthetic", "a language without files, whose entropy is known exactly"},
    {"batch", "what one optimizer step sums over"},
    {"precision", "number formats"},
    {"precision.keep_bf16", "blocks that are not quantized"},
    {"precision.cage", "CAGE: masters are drawn to their quantized values"},
    {"optimizer", "how gradients change the weights"},
    {"optimizer.muon", "muon, normuon, mars-m: momentum and how it is orthogonalised"},
    {"optimizer.ademamix", "the slow moment"},
    {"optimizer.shampoo", "inverse roots of the factors; made for beta1 and beta2 of 0.95"},
    {"optimizer.soap", "bases in which Adam's moments are; made for beta1 and beta2 of 0.95"},
    {"schedule", "the learning rate over the run"},
    {"loss", "what is learned beside the cross-entropy"},
    {"gradients", "their sum over the ranks of mpirun or Slurm"},
    {"weights", "how ranks that keep parts of them share them"},
    {"validation", "the loss on text that is not trained on"},
    {"run", "seed, machine, results"},
    {"run.checkpoint", "what a killed run continues from"},
    {"run.operands", "errors of quantized operands, in operands.jsonl"},
    {"run.updates", "what optimizers do, in the metrics"},
};

std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

}  // namespace

const std::vector<Setting>& settings_table() {
  static const std::vector<Setting> table = make_table();
  return table;
}

const Setting* find_setting(std::string_view key) {
  const std::vector<Setting>& table = settings_table();
  const auto found = std::ranges::find(table, key, &Setting::key);
  return found == table.end() ? nullptr : &*found;
}

std::string_view section_help(std::string_view section) {
  for (const auto& [key, help] : sections)
    if (key == section) return help;
  return {};
}

bool is_section(std::string_view key) { return !section_help(key).empty(); }

std::string nearest_key(std::string_view key) {
  std::vector<std::string> keys;
  for (const Setting& setting : settings_table()) keys.push_back(setting.key);
  for (const auto& [section, help] : sections) keys.emplace_back(section);
  // The right name in the wrong place is likelier than another name that happens to look alike.
  for (const std::string& candidate : keys)
    if (last_part(candidate) == last_part(key)) return candidate;
  if (std::string found = nearest(key, keys); !found.empty()) return found;
  std::vector<std::string> names;
  for (const std::string& candidate : keys) names.emplace_back(last_part(candidate));
  const std::string found = nearest(last_part(key), names);
  return found.empty() ? found : keys[static_cast<size_t>(std::ranges::find(names, found) - names.begin())];
}

}  // namespace nibble
