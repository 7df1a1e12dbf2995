#include "trainer/checkpoint_saver.hpp"

#include <fmt/format.h>

#include <cassert>
#include <exception>
#include <utility>

#include "data/json.hpp"
#include "data/json_fields.hpp"
#include "tensor/error.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/checkpoint_save.hpp"

namespace nibble {
namespace {

using nlohmann::json;

/// What a rank tells the others: what it has done, or why it could not.
json outcome_of(const std::function<std::string()>& work) {
  ErrorDetail error;
  try {
    return {{"done", work()}};
  } catch (const Error& caught) {
    error = caught.detail();
  } catch (const std::exception& caught) {
    error = {.kind = ErrorKind::resource, .what = "cannot save a checkpoint", .seen = caught.what()};
  }
  return {{"kind", static_cast<int>(error.kind)},
          {"what", error.what},
          {"where", error.where},
          {"seen", error.seen},
          {"allowed", error.allowed},
          {"next", error.next}};
}

/// What the rank has done. Throws the error that it met.
std::string done_by(int rank, int ranks, const std::string& outcome) {
  const std::string where = fmt::format("what rank {} says of its save", rank);
  constexpr ErrorKind kind = ErrorKind::communication;
  const json object = parse_json(outcome, where, kind);
  const JsonFields fields(object, where, kind);
  if (fields.has("done")) return fields.text("done");
  throw Error({.kind = static_cast<ErrorKind>(fields.integer("kind", 1, 255)),
               .what = fields.text("what"),
               .where = ranks == 1 ? fields.text("where") : fmt::format("rank {}: {}", rank, fields.text("where")),
               .seen = fields.text("seen"),
               .allowed = fields.text("allowed"),
               .next = fields.text("next")});
}

}  // namespace

CheckpointSaver::CheckpointSaver(CheckpointSaverOptions options, const StateList& state)
    : options_(std::move(options)) {
  if (options_.background) background_.emplace(state, options_.rank, options_.ranks);
}

std::vector<std::string> CheckpointSaver::agree(const std::function<std::string()>& work) {
  const std::string mine = outcome_of(work).dump(-1, ' ', false, json::error_handler_t::replace);
  std::vector<std::string> all = options_.gather(mine);
  try {
    for (int rank = 0; rank < options_.ranks; ++rank)
      all[static_cast<size_t>(rank)] = done_by(rank, options_.ranks, all[static_cast<size_t>(rank)]);
  } catch (const Error&) {
    stage_ = Stage::none;
    if (is_first()) abandon_checkpoint(options_.run_directory, header_.step);
    throw;
  }
  return all;
}

void CheckpointSaver::commit(const std::vector<std::string>& files) const {
  std::vector<RankFile> parsed;
  for (const std::string& file : files) parsed.push_back(parse_rank_file(file));
  options_.require_ownership();
  commit_checkpoint(options_.run_directory, header_, parsed);
  prune_checkpoints(options_.run_directory, options_.keep, options_.keep_every, options_.kept_steps);
}

void CheckpointSaver::start(Stream& stream, const CheckpointHeader& header, const StateList& state) {
  finish();
  header_ = header;
  agree([&] {
    if (is_first()) {
      options_.require_ownership();
      begin_checkpoint(options_.run_directory, header_.step, state);
    }
    return std::string();
  });
  const std::filesystem::path folder = saving_path(options_.run_directory, header_.step);
  if (background_) {
    background_->start(stream, state, folder);
    stage_ = Stage::writing;
    return;
  }
  const std::vector<std::string> files =
      agree([&] { return to_text(write_rank_file(folder, options_.rank, options_.ranks, state)); });
  agree([&] {
    if (is_first()) commit(files);
    return std::string();
  });
}

std::optional<int64_t> CheckpointSaver::advance() {
  assert(under_way());
  if (stage_ == Stage::writing) {
    const std::vector<std::string> files = agree([&] { return to_text(background_->take_file()); });
    if (is_first()) background_->commit([this, files] { commit(files); });
    stage_ = Stage::committing;
    return std::nullopt;
  }
  agree([&] {
    if (is_first()) background_->finish();
    return std::string();
  });
  stage_ = Stage::none;
  return header_.step;
}

void CheckpointSaver::finish() {
  while (under_way()) advance();
}

}  // namespace nibble
