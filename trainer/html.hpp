// HTML and the SVG inside it, written element by element.
//
// Here alone text becomes markup: every text and every attribute's value is escaped on its way in.
// Not for what stands on a page (report_page.hpp).
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble {

class Html {
 public:
  using Attributes = std::initializer_list<std::pair<std::string_view, std::string_view>>;

  void open(const char* tag, Attributes attributes = {});
  /// Closes the innermost element.
  void close();
  void text(std::string_view text);
  /// An element that holds a text.
  void element(const char* tag, std::string_view text, Attributes attributes = {});
  /// An element that holds nothing: <meta/>, <path/>.
  void empty(const char* tag, Attributes attributes = {});
  /// A style sheet of the program's own, as it stands.
  void style(const char* sheet);

  /// The document so far, with a document type before it; what is open is closed.
  std::string finish();

 private:
  void begin(const char* tag, Attributes attributes);

  std::string out_;
  std::vector<const char*> open_;
};

}  // namespace nibble
