#include "comm/message_connection.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace nibble {
namespace {

constexpr size_t longest_message = 64 * 1024;

/// Precedes every message: its length. Both ends run the same executable.
using Length = uint32_t;

}  // namespace

MessageConnection::MessageConnection(int socket) : socket_(socket) {
  fcntl(socket_, F_SETFL, fcntl(socket_, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

MessageConnection::~MessageConnection() {
  if (socket_ >= 0) ::close(socket_);
}

MessageConnection::MessageConnection(MessageConnection&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)),
      ended_(other.ended_),
      unsent_(std::move(other.unsent_)),
      received_(std::move(other.received_)) {}

MessageConnection& MessageConnection::operator=(MessageConnection&& other) noexcept {
  std::swap(socket_, other.socket_);
  std::swap(ended_, other.ended_);
  std::swap(unsent_, other.unsent_);
  std::swap(received_, other.received_);
  return *this;
}

void MessageConnection::send(std::string_view message) {
  const auto length = static_cast<Length>(std::min(message.size(), longest_message));
  unsent_.append(reinterpret_cast<const char*>(&length), sizeof length).append(message.substr(0, length));
  send_pending();
}

bool MessageConnection::exchange(const std::function<void(std::string_view)>& receive) {
  send_pending();
  receive_pending();
  size_t begin = 0;
  for (Length length = 0; received_.size() - begin >= sizeof length; begin += sizeof length + length) {
    std::memcpy(&length, received_.data() + begin, sizeof length);
    if (length > longest_message) return !(ended_ = true);  // not one of ours
    if (received_.size() - begin - sizeof length < length) break;
    receive(std::string_view(received_).substr(begin + sizeof length, length));
  }
  received_.erase(0, begin);
  return !ended_;
}

void MessageConnection::send_pending() {
  while (!unsent_.empty()) {
    const ssize_t count = ::send(socket_, unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      // A broken connection is found by `receive_pending`, after the last words that it brought.
      if (errno != EAGAIN && errno != EWOULDBLOCK) unsent_.clear();
      return;
    }
    unsent_.erase(0, static_cast<size_t>(count));
  }
}

void MessageConnection::receive_pending() {
  std::array<char, 4096> piece;
  while (!ended_) {
    const ssize_t count = ::recv(socket_, piece.data(), piece.size(), 0);
    if (count > 0) {
      received_.append(piece.data(), static_cast<size_t>(count));
    } else if (count == 0) {
      ended_ = true;
    } else if (errno != EINTR) {
      ended_ = errno != EAGAIN && errno != EWOULDBLOCK;
      return;
    }
  }
}

}  // namespace nibble
