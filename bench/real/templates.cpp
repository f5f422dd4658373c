// C++ for clang to work on: the heavy headers of the standard library and templates of our own.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Tower {
    std::map<int, std::variant<int, std::string, std::vector<Tower<N - 1>>>> floors;
    std::unordered_map<std::string, std::function<int(const Tower<N - 1> &)>> calls;
    int height() const { return 1 + Tower<N - 1>().height() + static_cast<int>(floors.size() + calls.size()); }
};

template <> struct Tower<0> {
    int height() const { return 0; }
};

int main()
{
    std::regex pattern("([a-z]+)=([0-9]+)");
    std::smatch match;
    std::string text = "width=12";
    std::vector<std::shared_ptr<std::string>> parts;
    if (std::regex_match(text, match, pattern)) {
        for (const auto &part : match) {
            parts.push_back(std::make_shared<std::string>(part.str()));
        }
    }
    std::sort(parts.begin(), parts.end(), [](const auto &a, const auto &b) { return *a < *b; });
    std::cout << Tower<12>().height() << ' ' << parts.size() << '\n';
}
