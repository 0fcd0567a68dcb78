// Special tokens: found in a text before anything else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lk::text {

// A part of a text: a special token, or (token -1) text that is still to be tokenized.
struct Fragment {
    int32_t token;
    std::string_view text;
};

// Finds special tokens in texts: the longest first, each at every place that no longer one has taken.
class SpecialTokens {
  public:
    struct Special {
        std::string text;
        int32_t id;
        bool always;                   // user-defined: found also where control tokens are not
        bool strip_left, strip_right;  // takes the white space before or after it too
    };
    void build(std::vector<Special> specials);
    std::vector<Fragment> partition(std::string_view text, bool parse_special) const;

  private:
    struct Node {
        std::vector<std::pair<uint8_t, int32_t>> next;  // byte -> node
        int32_t special = -1;                           // that ends here
    };
    std::vector<Special> specials_;  // longest first
    std::vector<Node> trie_;
};

}  // namespace lk::text
