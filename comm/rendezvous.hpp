// How the ranks come by their connections beside MPI: rank 0 listens, the others find it.
//
// The invitation (addresses, port, a secret) travels through the communicator, so no address needs to be configured.
// Not for what is said over the connections (liveness.hpp).
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "comm/message_connection.hpp"

namespace nibble {

class Rendezvous {
 public:
  /// Listens on a free port of every interface. Throws Error{communication}.
  Rendezvous();
  ~Rendezvous();
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  /// One line of text for `join`.
  const std::string& invitation() const { return invitation_; }

  /// Waits until ranks 1 to size - 1 have joined: their connections in that order. Whoever does not know the secret is
  /// turned away. Throws Error{communication} naming the ranks that did not come in time.
  std::vector<MessageConnection> accept(int size, std::chrono::milliseconds time);

 private:
  int socket_ = -1;
  std::string invitation_;
};

/// Connects to the first of the invitation's addresses that answers with the secret: others may lead to somebody else
/// (a container's bridge has the same address on every machine).
/// Throws Error{communication} naming the addresses that were tried.
MessageConnection join(const std::string& invitation, int rank, std::chrono::milliseconds time);

}  // namespace nibble
