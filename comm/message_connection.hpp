// One end of a TCP connection that carries whole messages and never blocks.
//
// Not for gradients (communicator.hpp): this is the small talk beside them, which goes on when they are stuck.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace nibble {

class MessageConnection {
 public:
  /// Takes a connected stream socket over.
  explicit MessageConnection(int socket);
  ~MessageConnection();
  MessageConnection(MessageConnection&& other) noexcept;
  MessageConnection& operator=(MessageConnection&& other) noexcept;

  /// For poll(2): wait for input, and for output as long as something is unsent.
  int socket() const { return socket_; }
  bool has_unsent() const { return !unsent_.empty(); }

  /// Messages are sent whole and in order, now or by later calls of `exchange`; longer ones than 64 KiB are cut.
  void send(std::string_view message);

  /// Sends what the other side takes and hands over what has come from it. False from the moment at which the
  /// connection has ended: the other process closed it or died, or the kernel gave it up.
  bool exchange(const std::function<void(std::string_view message)>& receive);

 private:
  void send_pending();
  void receive_pending();

  int socket_ = -1;
  bool ended_ = false;
  std::string unsent_, received_;
};

}  // namespace nibble
