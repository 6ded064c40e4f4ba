package garden.catalogue;

import java.time.Month;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** Seeds in stock, grouped by the month in which they are sown. */
public final class SeedCatalogue {
    private final Map<Month, List<Seed>> bySowingMonth = new EnumMap<>(Month.class);

    public static final class Seed {
        private final String name;
        private final int daysToHarvest;

        public Seed(String name, int daysToHarvest) {
            this.name = Objects.requireNonNull(name);
            if (daysToHarvest <= 0) {
                throw new IllegalArgumentException("days to harvest: " + daysToHarvest);
            }
            this.daysToHarvest = daysToHarvest;
        }

        public String getName() {
            return name;
        }

        public int getDaysToHarvest() {
            return daysToHarvest;
        }

        @Override
        public String toString() {
            return name + " (" + daysToHarvest + " days)";
        }
    }

    public void add(Month month, Seed seed) {
        bySowingMonth.computeIfAbsent(month, key -> new ArrayList<>()).add(seed);
    }

    public List<Seed> quickest(Month month) {
        List<Seed> seeds = new ArrayList<>(bySowingMonth.getOrDefault(month, List.of()));
        seeds.sort(Comparator.comparingInt(Seed::getDaysToHarvest));
        return seeds;
    }

    public static void main(String[] args) {
        SeedCatalogue catalogue = new SeedCatalogue();
        catalogue.add(Month.APRIL, new Seed("Radish", 28));
        catalogue.add(Month.APRIL, new Seed("Lettuce", 55));
        System.out.println(catalogue.quickest(Month.APRIL));
    }
}
