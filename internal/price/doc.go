// Package price says what LLM tokens cost.
//
// # Exact money
//
// A price is a decimal string per million tokens with at most nine decimals, and so a whole
// number of nano-units per million tokens. [llm.Money] is a whole number of femto-units (1e-15)
// of the currency, which is one nano-unit per million tokens: a cost is tokens times price, and
// nothing is ever rounded, not by a sum either. There is no float in this package. It is 128 bits wide, because
// a day of a large installation does not fit into 64.
//
// # Which price
//
// A [Table] holds the entries of a price list. For a model and an instant those entries count whose
// From has come; among them the model's own name wins, then its name without the date of a
// snapshot ("gpt-4o-2024-08-06" costs what "gpt-4o" costs), then the first entry whose pattern
// fits. Of several entries for one name the latest From wins. Dates begin at midnight UTC, as
// the days of the ledger's rollups do: every total can be cut at them without a remainder.
//
// The cost is derived when somebody asks, and never stored: the token counts are the truth, and a
// price that was wrong in the file is right after it has been corrected.
//
// [LiteLLM] and [ModelsDev] read the public price lists of those names.
package price
