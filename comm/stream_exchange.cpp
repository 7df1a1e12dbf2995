#include "comm/stream_exchange.hpp"

#include <fmt/format.h>

#include "comm/collectives.hpp"
#include "tensor/dtype.hpp"

namespace nibble {
namespace {

std::string where_of(const Communicator& communicator, int from) {
  return fmt::format("rank {}, stream from rank {}", communicator.rank(), from);
}

}  // namespace

std::vector<SparseStream> exchange_streams(Communicator& communicator, std::span<const OutgoingStream> outgoing,
                                           std::span<const IncomingStream> incoming, Wire values, uint64_t label) {
  const auto terms_of = [&](int source, int64_t length) {
    return MessageTerms{.source = source, .ranks = communicator.size(), .label = label, .length = length};
  };
  std::vector<StreamMessage> sent;
  std::vector<Communicator::Send> sends;
  for (const OutgoingStream& out : outgoing)
    sent.push_back(write_message(*out.stream, values, terms_of(communicator.rank(), out.stream->length())));
  for (size_t i = 0; i < sent.size(); ++i) sends.push_back({outgoing[i].to, sent[i].header});
  std::vector<StreamMessage> received(incoming.size());
  std::vector<Communicator::Receive> receives;
  for (size_t i = 0; i < incoming.size(); ++i) receives.push_back({incoming[i].from, received[i].header});
  communicator.transfer(sends, receives);

  std::vector<StreamPromise> promises;
  for (size_t i = 0; i < incoming.size(); ++i) {
    const auto [from, length] = incoming[i];
    promises.push_back(read_header(received[i].header, terms_of(from, length), where_of(communicator, from)));
    received[i].payload.resize(wire_bytes(promises[i].form, length, promises[i].count));
    receives[i].bytes = received[i].payload;
  }
  for (size_t i = 0; i < sent.size(); ++i) sends[i].bytes = sent[i].payload;
  communicator.transfer(sends, receives);

  std::vector<SparseStream> streams;
  for (size_t i = 0; i < incoming.size(); ++i) {
    const auto [from, length] = incoming[i];
    streams.push_back(
        read_payload(received[i].payload, promises[i], terms_of(from, length), where_of(communicator, from)));
  }
  return streams;
}

std::vector<SparseStream> gather_streams(Communicator& communicator, const SparseStream& mine,
                                         std::span<const int64_t> lengths, Wire values, uint64_t label) {
  const auto ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  const auto terms_of = [&](size_t source) {
    return MessageTerms{
        .source = static_cast<int>(source), .ranks = communicator.size(), .label = label, .length = lengths[source]};
  };
  std::vector<StreamMessage> messages(ranks);
  messages[rank] = write_message(mine, values, terms_of(rank));
  Parts parts;
  for (StreamMessage& message : messages) parts.push_back({message.header});
  all_gather(communicator, parts);

  std::vector<StreamPromise> promises;
  for (size_t r = 0; r < ranks; ++r) {
    promises.push_back(read_header(messages[r].header, terms_of(r), where_of(communicator, static_cast<int>(r))));
    messages[r].payload.resize(wire_bytes(promises[r].form, lengths[r], promises[r].count));
    parts[r] = {messages[r].payload};
  }
  all_gather(communicator, parts);

  std::vector<SparseStream> streams;
  for (size_t r = 0; r < ranks; ++r)
    streams.push_back(
        read_payload(messages[r].payload, promises[r], terms_of(r), where_of(communicator, static_cast<int>(r))));
  return streams;
}

SparseStream as_received(SparseStream stream, Wire values) {
  if (values == Wire::f32) return stream;
  const SparseForm form = shortest_form(stream, values);
  std::vector<std::byte> bytes(wire_bytes(form, stream.length(), stream.count()));
  encode(stream, form, bytes);
  return decode(bytes, form, stream.length(), stream.count(), "own stream");
}

}  // namespace nibble
