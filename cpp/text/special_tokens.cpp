#include <algorithm>

#include "text/tokenizer.h"

namespace lk::text {
namespace {

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

}  // namespace

SpecialTokens::SpecialTokens(std::vector<Entry> entries) : entries_(std::move(entries)) {
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.text.size() > b.text.size(); });
    for (uint32_t i = 0; i < entries_.size(); ++i) {
        by_first_byte_[static_cast<uint8_t>(entries_[i].text[0])].push_back(i);
    }
}

std::vector<SpecialTokens::Hit> SpecialTokens::find(std::string_view text, bool parse) const {
    std::vector<std::pair<uint32_t, size_t>> found;  // rank of the entry, place
    for (size_t at = 0; at < text.size(); ++at) {
        for (uint32_t rank : by_first_byte_[static_cast<uint8_t>(text[at])]) {
            const Entry& entry = entries_[rank];
            if ((parse || !entry.only_parsed) && text.compare(at, entry.text.size(), entry.text) == 0) {
                found.emplace_back(rank, at);
            }
        }
    }
    std::sort(found.begin(), found.end());
    std::vector<bool> taken(found.empty() ? 0 : text.size());
    std::vector<Hit> hits;
    for (const auto& [rank, at] : found) {
        const Entry& entry = entries_[rank];
        size_t start = at;
        size_t end = at + entry.text.size();
        if (std::find(taken.begin() + start, taken.begin() + end, true) != taken.begin() + end) {
            continue;
        }
        while (entry.strip_left && start > 0 && !taken[start - 1] && is_space(text[start - 1])) {
            --start;
        }
        while (entry.strip_right && end < text.size() && !taken[end] && is_space(text[end])) {
            ++end;
        }
        std::fill(taken.begin() + start, taken.begin() + end, true);
        hits.push_back({start, end, entry.id});
    }
    std::sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) { return a.start < b.start; });
    return hits;
}

}  // namespace lk::text
