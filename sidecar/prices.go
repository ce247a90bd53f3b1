package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
)

// maxPriceList bounds what is read of a price list, in bytes.
const maxPriceList = 64 << 20

// pricesCommand converts public price lists to the form of CONFIG_FILE.
func pricesCommand(stdout, stderr io.Writer) *cobra.Command {
	var format, model, provider, from string
	load := &cobra.Command{
		Use: "import FILE", Short: `Print the prices of a public list as "prices:" of CONFIG_FILE; FILE may be "-"`,
		Long: `Print the prices of a public list as "prices:" of CONFIG_FILE.

FILE is LiteLLM's model_prices_and_context_window.json or the api.json of models.dev; "-" is
standard input. What the list says and this format cannot is named on standard error.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{fmt.Errorf("%s: want one file; see --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := llm.CheckPattern(model); err != nil {
				return &usageError{fmt.Errorf(`--model=%q: want a pattern such as "gpt-4o*"`, model)}
			}
			if _, err := time.Parse(time.DateOnly, from); from != "" && err != nil {
				return &usageError{fmt.Errorf("--from=%q: want a date such as 2026-01-01", from)}
			}
			doc, err := readList(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			if format == "auto" {
				format = price.Detect(doc)
			}
			var list price.List
			switch filter := (price.Filter{Model: model, Provider: provider}); format {
			case "litellm":
				list, err = price.LiteLLM(doc, filter)
			case "models.dev":
				list, err = price.ModelsDev(doc, filter)
			case "":
				err = fmt.Errorf("import prices: %s is no price list of LiteLLM or models.dev", args[0])
			default:
				err = &usageError{fmt.Errorf("--format=%q: want auto, litellm or models.dev", format)}
			}
			if err != nil {
				return err
			}
			for _, warning := range list.Warnings {
				fmt.Fprintln(stderr, warning)
			}
			if list.Unpriced > 0 {
				fmt.Fprintf(stderr, "%d entries have no price per token\n", list.Unpriced)
			}
			if len(list.Prices) == 0 {
				return fmt.Errorf("import prices: no model of %s has a price that fits", args[0])
			}
			return writePrices(stdout, list, fmt.Sprintf("%s, format %s", filepath.Base(args[0]), format), from)
		},
	}
	load.Flags().StringVar(&format, "format", "auto", "auto, litellm or models.dev")
	load.Flags().StringVar(&model, "model", "", `only models that match, such as "gpt-4o*"`)
	load.Flags().StringVar(&provider, "provider", "", "only this provider's, by the list's name for it")
	load.Flags().StringVar(&from, "from", "", "first day of these prices, UTC; without it they hold since ever")
	command := &cobra.Command{Use: "prices", Short: "Make prices for CONFIG_FILE", Args: noArgs}
	command.AddCommand(load)
	return command
}

func readList(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("import prices: %w", err)
		}
		defer file.Close()
		in = file
	}
	doc, err := io.ReadAll(io.LimitReader(in, maxPriceList+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("import prices: %w", err)
	case len(doc) > maxPriceList:
		return nil, fmt.Errorf("import prices: %s is larger than %d bytes", name, maxPriceList)
	}
	return doc, nil
}

// writePrices writes YAML. Names and numbers are quoted: Go's quotes of
// printable text are YAML's too.
func writePrices(w io.Writer, list price.List, source, from string) error {
	if _, err := fmt.Fprintf(w, "# %s; US dollars per million tokens\nprices:\n", source); err != nil {
		return err
	}
	for _, p := range list.Prices {
		line := "  - {model: " + strconv.Quote(p.Model)
		if from != "" {
			line += ", from: " + from
		}
		var rates []string
		for key, rate := range p.Named() {
			rates = append(rates, ", "+key+": "+strconv.Quote(rate))
		}
		line += strings.Join(rates, "") + "}"
		if p.Note != "" {
			line += " # " + p.Note
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
