#include "comm/rendezvous.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <sstream>

#include "tensor/error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds connect_time(1000);  ///< an address that drops packets does not answer at all
constexpr milliseconds answer_time(5000);   ///< rank 0 may still be busy with other ranks

/// A line of text: "QUESTION ANSWER PORT ADDRESS...". Who knows the question is one of us, who knows the answer is rank
/// 0 of the same run.
struct Invitation {
  std::string question, answer, port;
  std::vector<std::string> addresses;
};

Invitation parse(const std::string& text) {
  Invitation invitation;
  std::istringstream words(text);
  words >> invitation.question >> invitation.answer >> invitation.port;
  for (std::string address; words >> address;) invitation.addresses.push_back(address);
  return invitation;
}

[[noreturn]] void fail(const std::string& what, const std::string& where, const std::string& seen) {
  throw Error({.kind = ErrorKind::communication,
               .what = what,
               .where = where,
               .seen = seen,
               .next = "ranks watch each other over TCP on any free port, beside MPI: let the hosts reach each other"});
}

std::string secret() {
  std::array<uint64_t, 1> bits{};
  if (getrandom(bits.data(), sizeof bits, 0) != sizeof bits)
    fail("no random numbers for the ranks' secret", "getrandom", std::strerror(errno));
  return hex(bits[0]);
}

/// Of every interface that is up; loopback last, for ranks on the same host when there is no network at all.
std::vector<std::string> own_addresses() {
  std::vector<std::string> network, loopback;
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) fail("the network interfaces cannot be listed", "getifaddrs", std::strerror(errno));
  for (const ifaddrs* entry = first; entry; entry = entry->ifa_next) {
    if (!entry->ifa_addr || !(entry->ifa_flags & IFF_UP)) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    std::array<char, NI_MAXHOST> name{};
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (getnameinfo(entry->ifa_addr, size, name.data(), name.size(), nullptr, 0, NI_NUMERICHOST) != 0) continue;
    if (std::strchr(name.data(), '%')) continue;  // link-local: its scope means nothing on another machine
    (entry->ifa_flags & IFF_LOOPBACK ? loopback : network).emplace_back(name.data());
  }
  freeifaddrs(first);
  network.insert(network.end(), loopback.begin(), loopback.end());
  return network;
}

int remaining(Clock::time_point end) {
  return static_cast<int>(std::max<int64_t>(0, std::chrono::ceil<milliseconds>(end - Clock::now()).count()));
}

/// Bound to a free port of all interfaces; -1 where the machine does not have this family.
int listen_on(int family) {
  const int socket = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return -1;
  sockaddr_in6 any6{};
  sockaddr_in any4{};
  any6.sin6_family = AF_INET6;
  any4.sin_family = AF_INET;
  const int both = 0;
  if (family == AF_INET6) setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof both);
  const bool six = family == AF_INET6;
  const auto* address = six ? reinterpret_cast<const sockaddr*>(&any6) : reinterpret_cast<const sockaddr*>(&any4);
  if (bind(socket, address, six ? sizeof any6 : sizeof any4) == 0 && listen(socket, SOMAXCONN) == 0) return socket;
  ::close(socket);
  return -1;
}

/// A connected socket, or -1.
int connect_to(const std::string& address, const std::string& port, int milliseconds_left) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), port.c_str(), &hints, &found) != 0) return -1;
  const int socket = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool connected = socket >= 0 && ::connect(socket, found->ai_addr, found->ai_addrlen) == 0;
  if (socket >= 0 && !connected && errno == EINPROGRESS) {
    pollfd waiting{.fd = socket, .events = POLLOUT, .revents = 0};
    int failure = 0;
    socklen_t size = sizeof failure;
    connected = ::poll(&waiting, 1, milliseconds_left) == 1 &&
                getsockopt(socket, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 && failure == 0;
  }
  freeaddrinfo(found);
  if (connected) return socket;
  if (socket >= 0) ::close(socket);
  return -1;
}

/// The first message that comes within the time; none when the connection ends or nothing comes.
std::optional<std::string> first_message(MessageConnection& connection, Clock::time_point end) {
  std::optional<std::string> first;
  do {
    pollfd waiting{.fd = connection.socket(), .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, remaining(end));
    const bool lives = connection.exchange([&](std::string_view message) { first = std::string(message); });
    if (!lives) break;
  } while (!first && Clock::now() < end);
  return first;
}

}  // namespace

Rendezvous::Rendezvous() {
  socket_ = listen_on(AF_INET6);
  if (socket_ < 0) socket_ = listen_on(AF_INET);
  if (socket_ < 0) fail("rank 0 cannot listen on a TCP port", "bind", std::strerror(errno));
  sockaddr_in6 bound{};
  socklen_t size = sizeof bound;
  getsockname(socket_, reinterpret_cast<sockaddr*>(&bound), &size);
  // The port stands in the same place in both families' addresses.
  invitation_ = fmt::format("{} {} {} {}", secret(), secret(), ntohs(bound.sin6_port), fmt::join(own_addresses(), " "));
}

Rendezvous::~Rendezvous() {
  if (socket_ >= 0) ::close(socket_);
}

std::vector<MessageConnection> Rendezvous::accept(int size, milliseconds time) {
  const Invitation invitation = parse(invitation_);
  const Clock::time_point end = Clock::now() + time;
  std::vector<MessageConnection> strangers;
  std::map<int, MessageConnection> joined;
  while (static_cast<int>(joined.size()) < size - 1 && Clock::now() < end) {
    std::vector<pollfd> waiting = {{.fd = socket_, .events = POLLIN, .revents = 0}};
    for (const MessageConnection& stranger : strangers)
      waiting.push_back({.fd = stranger.socket(), .events = POLLIN, .revents = 0});
    ::poll(waiting.data(), waiting.size(), remaining(end));
    if (const int socket = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC); socket >= 0)
      strangers.emplace_back(socket);
    for (size_t i = 0; i < strangers.size();) {
      std::optional<int> rank;
      const bool lives = strangers[i].exchange([&](std::string_view message) {
        std::istringstream words{std::string(message)};
        std::string question;
        int number = 0;
        rank =
            words >> question >> number && question == invitation.question && number > 0 && number < size ? number : -1;
      });
      if (rank.value_or(-1) > 0) {
        strangers[i].send(invitation.answer);
        joined.insert_or_assign(*rank, std::move(strangers[i]));  // who comes again has given the first one up
      }
      if (rank || !lives) strangers.erase(strangers.begin() + static_cast<std::ptrdiff_t>(i));
      else ++i;
    }
  }
  std::vector<int> missing;
  for (int rank = 1; rank < size; ++rank)
    if (!joined.contains(rank)) missing.push_back(rank);
  if (!missing.empty())
    fail(fmt::format("ranks did not reach rank 0 within {} s", std::chrono::duration<double>(time).count()),
         fmt::format("ranks {}", fmt::join(missing, ", ")),
         fmt::format("rank 0 listens on port {} of {}", invitation.port, fmt::join(invitation.addresses, ", ")));
  std::vector<MessageConnection> connections;
  for (auto& [rank, connection] : joined) connections.push_back(std::move(connection));
  return connections;
}

MessageConnection join(const std::string& text, int rank, milliseconds time) {
  const Invitation invitation = parse(text);
  const Clock::time_point end = Clock::now() + time;
  do {
    for (const std::string& address : invitation.addresses) {
      const int socket = connect_to(address, invitation.port, static_cast<int>(connect_time.count()));
      if (socket < 0) continue;
      MessageConnection connection(socket);
      connection.send(fmt::format("{} {}", invitation.question, rank));
      if (first_message(connection, Clock::now() + answer_time) == invitation.answer) return connection;
    }
    constexpr int pause = 100;
    ::poll(nullptr, 0, pause);
  } while (Clock::now() < end);
  fail(fmt::format("rank {} does not reach rank 0", rank),
       fmt::format("port {} of {}", invitation.port, fmt::join(invitation.addresses, ", ")), "no address answers");
}

}  // namespace nibble
