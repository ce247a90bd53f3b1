package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
)

const calibrationState = "calibration"

// restore takes up what the last process learned, so that a restart starts
// with calibrated estimates and a level that counts its last minute.
func (s *server) restore(ctx context.Context) {
	data, err := s.ledger.LoadState(ctx, calibrationState)
	if err == nil && len(data) > 0 {
		var learned []tokens.Calibration
		if err = json.Unmarshal(data, &learned); err == nil {
			s.tokens.Import(learned)
		}
	}
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		s.logger.Warn("calibration not restored", "error", err.Error())
	}
	recent, err := s.ledger.RecentUse(ctx, time.Now().Add(-time.Minute))
	if err != nil {
		s.logger.Warn("recent use not restored", "error", err.Error())
	}
	for _, use := range recent {
		s.limits.Prime(limit.Recent{Model: use.Model, Requests: use.Requests, Input: use.Input, Output: use.Output})
	}
	if !s.cfg.Load().File.LimitsDays() {
		return
	}
	today, err := s.ledger.Usage(ctx, ledger.UsageQuery{From: time.Now().Add(-24 * time.Hour), By: []string{"model"}})
	if err != nil {
		s.logger.Warn("use of the day not restored", "error", err.Error())
	}
	for _, use := range today {
		s.limits.Prime(limit.Recent{Model: use.Model, RequestsDay: use.Requests, TokensDay: use.Usage.Total()})
	}
}

// saveRegularly bounds what a crash unlearns to a minute.
func (s *server) saveRegularly(stop <-chan struct{}) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			s.save(context.Background())
		}
	}
}

func (s *server) save(ctx context.Context) {
	data, err := json.Marshal(s.tokens.Export())
	if err == nil {
		err = s.ledger.SaveState(ctx, calibrationState, data)
	}
	if err != nil {
		s.logger.Warn("calibration not saved", "error", err.Error())
	}
}
