// Command fit computes the weights of the byte heuristic in package tokens.
//
//	go run ./internal/tokens/fit        # fit, judge, and write weights.go
//	go run ./internal/tokens/fit -n     # fit and judge only
//
// It reads testdata/corpus.jsonl.gz, which corpus.py assembled and truth.mjs
// counted; SOURCES.md says where the texts come from. Weights are fitted on the
// texts of one side and judged on the other, and no source stands on both.
//
// The fit is a non-negative ridge regression of the o200k_base count on the
// features of tokens.Features: squared errors weigh 1/count, so that a long text
// does not outvote short ones, and texts that miss by more than a tenth weigh less
// (iteratively reweighted), so that one odd generator does not bend everything.
// The ridge draws every weight to the guess of tokens.Guess, which is what remains
// where the corpus has nothing to say.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
)

func main() {
	dir := flag.String("dir", "internal/tokens", "folder of package tokens")
	dry := flag.Bool("n", false, "do not write weights.go")
	flag.Parse()
	log.SetFlags(0)
	if err := run(*dir, *dry, os.Stdout); err != nil {
		log.Fatal("fit: ", err)
	}
}

func run(dir string, dry bool, out io.Writer) error {
	docs, err := readCorpus(dir + "/testdata/corpus.jsonl.gz")
	if err != nil {
		return err
	}
	var fit, judge []doc
	for _, d := range docs {
		if d.Side == "fit" {
			fit = append(fit, d)
		} else {
			judge = append(judge, d)
		}
	}
	guess := tokens.Guess()
	weights := solve(fit, guess[:])
	report(out, "fit", fit, weights)
	report(out, "judge", judge, weights)
	reportCategories(out, judge, weights)
	report(out, "swap", fit, solve(judge, guess[:])) // the other way round: nothing here was chosen by its outcome
	if dry {
		return nil
	}
	if err := writeWeights(dir+"/weights.go", weights); err != nil {
		return fmt.Errorf("write weights: %w", err)
	}
	return nil
}
