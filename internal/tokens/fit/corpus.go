package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
)

// doc is one text of the corpus with its exact counts.
type doc struct {
	Side     string           `json:"side"` // fit or judge
	Source   string           `json:"source"`
	Category string           `json:"category"`
	Text     string           `json:"text"`
	Counts   map[string]int64 `json:"counts"` // by tokenizer

	features []entry // the non-zero ones
	count    float64 // o200k
}

// entry is one non-zero feature.
type entry struct {
	index int
	value float64
}

func readCorpus(path string) ([]doc, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	var docs []doc
	for dec := json.NewDecoder(zr); ; {
		var d doc
		if err := dec.Decode(&d); err == io.EOF {
			return docs, nil
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		for i, v := range tokens.Features(inside(d.Text)) {
			if v != 0 {
				d.features = append(d.features, entry{i, v})
			}
		}
		d.count = float64(d.Counts["o200k"])
		docs = append(docs, d)
	}
}

// inside is text as it stands between the quotes of a JSON string.
func inside(text string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		panic(err) // a string always encodes
	}
	return bytes.Trim(buf.Bytes(), "\n")[1 : buf.Len()-2]
}

// dot is the estimate of a text.
func (d *doc) dot(weights []float64) float64 {
	var sum float64
	for _, e := range d.features {
		sum += e.value * weights[e.index]
	}
	return sum
}

// report prints bias and the quantiles of the relative error.
func report(out io.Writer, name string, docs []doc, weights []float64) {
	var est, exact float64
	var errs []float64
	for _, d := range docs {
		e := d.dot(weights)
		est += e
		exact += d.count
		errs = append(errs, abs(e/d.count-1))
	}
	slices.Sort(errs)
	q := func(p float64) float64 { return 100 * errs[int(p*float64(len(errs)-1))] }
	fmt.Fprintf(out, "%-6s %5d texts %8.0f tokens  bias %+5.1f %%  p50 %4.1f %%  p90 %4.1f %%  p99 %4.1f %%\n",
		name, len(docs), exact, 100*(est/exact-1), q(.5), q(.9), q(.99))
}

// reportCategories prints the median of estimate over exact count per category.
func reportCategories(out io.Writer, docs []doc, weights []float64) {
	ratios := map[string][]float64{}
	for _, d := range docs {
		ratios[d.Category] = append(ratios[d.Category], d.dot(weights)/d.count)
	}
	type row struct {
		name   string
		median float64
		n      int
	}
	var rows []row
	for name, r := range ratios {
		slices.Sort(r)
		rows = append(rows, row{name, (r[len(r)/2] + r[(len(r)-1)/2]) / 2, len(r)})
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Compare(a.median, b.median)
	})
	for _, r := range rows {
		fmt.Fprintf(out, "  %-14s %5.2f  (%d)\n", r.name, r.median, r.n)
	}
}

func abs(x float64) float64 { return max(x, -x) }
