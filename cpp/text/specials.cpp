#include "text/specials.h"

#include <algorithm>

namespace lk::text {
namespace {

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct Found {
    size_t at;
    int32_t special;
};

}  // namespace

void SpecialTokens::build(std::vector<Special> specials) {
    specials_ = std::move(specials);
    std::stable_sort(specials_.begin(), specials_.end(),
                     [](const Special& a, const Special& b) { return a.text.size() > b.text.size(); });
    trie_.assign(1, {});
    for (size_t i = 0; i < specials_.size(); ++i) {
        size_t node = 0;
        for (const char c : specials_[i].text) {
            const auto& next = trie_[node].next;
            const auto known =
                std::find_if(next.begin(), next.end(), [&](const auto& e) { return e.first == uint8_t(c); });
            if (known != next.end()) {
                node = size_t(known->second);
                continue;
            }
            trie_.push_back({});
            trie_[node].next.emplace_back(uint8_t(c), int32_t(trie_.size()) - 1);
            node = trie_.size() - 1;
        }
        if (node != 0 && trie_[node].special < 0) trie_[node].special = int32_t(i);
    }
}

std::vector<Fragment> SpecialTokens::partition(std::string_view text, bool parse_special) const {
    std::vector<Found> found;
    for (size_t at = 0; at < text.size() && !trie_.empty(); ++at) {
        int32_t node = 0;
        for (size_t i = at; i < text.size() && node >= 0; ++i) {
            int32_t to = -1;
            for (const auto& [byte, next] : trie_[size_t(node)].next)
                if (byte == uint8_t(text[i])) to = next;
            node = to;
            const int32_t special = node < 0 ? -1 : trie_[size_t(node)].special;
            if (special >= 0 && (parse_special || specials_[size_t(special)].always)) found.push_back({at, special});
        }
    }
    std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.special < b.special; });
    std::vector<Found> taken;
    std::vector<bool> covered(found.empty() ? 0 : text.size(), false);
    for (const Found& each : found) {
        const size_t n = specials_[size_t(each.special)].text.size();
        if (covered[each.at] || covered[each.at + n - 1]) continue;
        std::fill_n(covered.begin() + std::ptrdiff_t(each.at), n, true);
        taken.push_back(each);
    }
    std::sort(taken.begin(), taken.end(), [](const Found& a, const Found& b) { return a.at < b.at; });
    std::vector<Fragment> out;
    size_t from = 0;
    for (const Found& each : taken) {
        const Special& special = specials_[size_t(each.special)];
        size_t to = each.at;
        while (special.strip_left && to > from && is_space(text[to - 1])) --to;
        if (to > from) out.push_back({-1, text.substr(from, to - from)});
        out.push_back({special.id, text.substr(each.at, special.text.size())});
        from = each.at + special.text.size();
        while (special.strip_right && from < text.size() && is_space(text[from])) ++from;
    }
    if (from < text.size()) out.push_back({-1, text.substr(from)});
    return out;
}

}  // namespace lk::text
