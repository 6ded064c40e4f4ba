#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace tuning {

class Partial {
public:
    Partial(std::string name, double hertz) : name_(std::move(name)), hertz_(hertz) {}
    virtual ~Partial() = default;

    const std::string& name() const { return name_; }
    double hertz() const { return hertz_; }

    double cents_from(double reference) const {
        return 1200.0 * std::log2(hertz_ / reference);
    }

private:
    std::string name_;
    double hertz_;
};

template <typename Container>
auto sharpest(const Container& partials) {
    return std::max_element(partials.begin(), partials.end(),
        [](const auto& a, const auto& b) { return a->hertz() < b->hertz(); });
}

}  // namespace tuning

int main() {
    std::vector<std::unique_ptr<tuning::Partial>> partials;
    partials.push_back(std::make_unique<tuning::Partial>("hum", 110.2));
    partials.push_back(std::make_unique<tuning::Partial>("prime", 219.7));
    for (const auto& partial : partials) {
        std::cout << partial->name() << ": " << partial->cents_from(110.0) << std::endl;
    }
    if (auto it = tuning::sharpest(partials); it != partials.end()) {
        std::cout << "sharpest: " << (*it)->name() << '\n';
    }
    return 0;
}
