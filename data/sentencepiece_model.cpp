#include "data/sentencepiece_model.hpp"

#include <cstring>
#include <optional>

#include "tensor/error.hpp"

namespace nibble {
namespace {

/// The fields of a protocol buffer's message, one after another.
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  /// To the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    field_ = key >> 3;
    switch (key & 7) {
      case 0:
        value_ = varint();
        return true;
      case 1:
        bytes_ = take(8);
        return true;
      case 2:
        bytes_ = take(varint());
        return true;
      case 5:
        bytes_ = take(4);
        return true;
      default:
        refuse();
    }
  }
  uint64_t field() const { return field_; }
  uint64_t value() const { return value_; }
  std::string_view bytes() const { return bytes_; }
  float number() const {
    float value;
    if (bytes_.size() != sizeof value) refuse();
    std::memcpy(&value, bytes_.data(), sizeof value);
    return value;
  }

 private:
  [[noreturn]] static void refuse() {
    throw Error({.kind = ErrorKind::data,
                 .what = "the SentencePiece model is damaged",
                 .allowed = "a protocol buffer as sentencepiece_model.proto describes it",
                 .next = "fetch or train it again"});
  }
  uint64_t varint() {
    uint64_t result = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      result |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return result;
    }
    refuse();
  }
  std::string_view take(uint64_t count) {
    if (count > rest_.size()) refuse();
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_, bytes_;
  uint64_t field_ = 0, value_ = 0;
};

SentencePieceModel::Piece parse_piece(std::string_view bytes) {
  SentencePieceModel::Piece piece;
  for (Message message(bytes); message.next();) {
    if (message.field() == 1) piece.text = message.bytes();
    else if (message.field() == 2) piece.score = message.number();
    else if (message.field() == 3) piece.type = static_cast<int32_t>(message.value());
  }
  return piece;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view model) {
  constexpr uint64_t bpe = 2;  // TrainerSpec.ModelType
  SentencePieceModel result;
  for (Message message(model); message.next();) {
    if (message.field() == 1) result.pieces.push_back(parse_piece(message.bytes()));
    if (message.field() == 2)
      for (Message trainer(message.bytes()); trainer.next();)
        if (trainer.field() == 3) result.is_bpe = trainer.value() == bpe;
    if (message.field() == 3)
      for (Message normalizer(message.bytes()); normalizer.next();) {
        if (normalizer.field() == 2) result.normalizes = !normalizer.bytes().empty();
        else if (normalizer.field() == 3) result.adds_leading_space = normalizer.value() != 0;
        else if (normalizer.field() == 4) result.removes_extra_spaces = normalizer.value() != 0;
      }
  }
  return result;
}

}  // namespace nibble
