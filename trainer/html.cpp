#include "trainer/html.hpp"

namespace nibble {
namespace {

/// Good between tags and between double quotes. Control characters, which HTML forbids, become U+FFFD.
std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (c == '\'') out += "&#39;";
    else if ((code < 0x20 && c != '\n' && c != '\t') || code == 0x7F) out += "\xEF\xBF\xBD";
    else out += c;
  }
  return out;
}

}  // namespace

void Html::begin(const char* tag, Attributes attributes) {
  out_ += '<';
  out_ += tag;
  for (const auto& [name, value] : attributes) {
    out_ += ' ';
    out_ += name;
    out_ += "=\"" + escaped(value) + '"';
  }
}

void Html::open(const char* tag, Attributes attributes) {
  begin(tag, attributes);
  out_ += '>';
  open_.push_back(tag);
}

void Html::close() {
  out_ += std::string("</") + open_.back() + ">\n";
  open_.pop_back();
}

void Html::text(std::string_view text) { out_ += escaped(text); }

void Html::element(const char* tag, std::string_view content, Attributes attributes) {
  open(tag, attributes);
  text(content);
  close();
}

void Html::empty(const char* tag, Attributes attributes) {
  begin(tag, attributes);
  out_ += "/>\n";
}

void Html::style(const char* sheet) { out_ += std::string("<style>") + sheet + "</style>\n"; }

std::string Html::finish() {
  while (!open_.empty()) close();
  return "<!DOCTYPE html>\n" + out_;
}

}  // namespace nibble
