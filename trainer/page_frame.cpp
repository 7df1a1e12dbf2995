#include "trainer/page_frame.hpp"

#include "trainer/report_style.hpp"
#include "trainer/version.hpp"

namespace nibble {

void begin_page(Html& html, const std::string& title) {
  html.open("html", {{"lang", "en"}});
  html.open("head");
  html.empty("meta", {{"charset", "utf-8"}});
  html.empty("meta", {{"name", "viewport"}, {"content", "width=device-width, initial-scale=1"}});
  // The page needs nothing beside itself, and the browser sees to that.
  html.empty("meta",
             {{"http-equiv", "Content-Security-Policy"}, {"content", "default-src 'none'; style-src 'unsafe-inline'"}});
  html.element("title", title);
  html.style(report_style);
  html.close();
  html.open("body");
}

std::string finish_page(Html& html) {
  html.element("footer", "Written by nibble " + versions().front().second);
  return html.finish();
}

}  // namespace nibble
