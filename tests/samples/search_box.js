'use strict';

const DELAY_MS = 150;

function debounce(callback, delay) {
  let timer = null;
  return function debounced(...args) {
    clearTimeout(timer);
    timer = setTimeout(() => callback.apply(this, args), delay);
  };
}

class SearchBox {
  constructor(element, { onResults, limit = 10 } = {}) {
    this.element = element;
    this.onResults = onResults;
    this.limit = limit;
    this.controller = null;
    const ask = debounce((text) => this.ask(text), DELAY_MS);
    element.addEventListener('input', (event) => ask(event.target.value.trim()));
  }

  async ask(text) {
    if (this.controller !== null) {
      this.controller.abort();
    }
    this.controller = new AbortController();
    const query = new URLSearchParams({ q: text, limit: String(this.limit) });
    try {
      const response = await fetch(`/search?${query}`, { signal: this.controller.signal });
      if (!response.ok) {
        throw new Error(`search answered ${response.status}`);
      }
      const { results } = await response.json();
      this.onResults(results.filter((result) => result.score > 0.2));
    } catch (error) {
      if (error.name !== 'AbortError') {
        console.error(error);
      }
    }
  }
}

module.exports = { SearchBox, debounce };
