// Watermill's forwarder from a table in PostgreSQL to Kafka, as a process of its own.
//
// It prints "ready" when it listens, and ends in order on SIGTERM.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
)

type settings struct {
	databaseURL  string
	bootstrap    string
	table        string
	pollInterval time.Duration
	batch        int
}

func main() {
	var s settings
	flag.StringVar(&s.databaseURL, "database-url", "", "PostgreSQL's URL")
	flag.StringVar(&s.bootstrap, "bootstrap", "", "one Kafka broker")
	flag.StringVar(&s.table, "topic", "outbox", "the forwarder's topic, which names the table")
	flag.DurationVar(&s.pollInterval, "poll-interval", time.Millisecond, "how long to wait for rows")
	flag.IntVar(&s.batch, "batch", 100, "rows a query")
	flag.Parse()
	if err := run(s); err != nil {
		log.Fatal(err)
	}
}

func run(s settings) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	logger := watermill.NewSlogLogger(
		slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	)
	pool, err := pgxpool.New(ctx, s.databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	subscriber, err := newSubscriber(pool, s, logger)
	if err != nil {
		return err
	}
	publisher, err := newPublisher(s.bootstrap, logger)
	if err != nil {
		return err
	}
	relay, err := forwarder.NewForwarder(
		subscriber, publisher, logger, forwarder.Config{ForwarderTopic: s.table},
	)
	if err != nil {
		return err
	}
	go func() {
		<-relay.Running()
		fmt.Println("ready")
	}()
	return relay.Run(ctx)
}

func newSubscriber(pool *pgxpool.Pool, s settings, logger watermill.LoggerAdapter) (message.Subscriber, error) {
	return sql.NewSubscriber(
		sql.BeginnerFromPgx(pool),
		sql.SubscriberConfig{
			ConsumerGroup:    "forwarder",
			PollInterval:     s.pollInterval,
			SchemaAdapter:    sql.DefaultPostgreSQLSchema{SubscribeBatchSize: s.batch},
			OffsetsAdapter:   sql.DefaultPostgreSQLOffsetsAdapter{},
			InitializeSchema: true,
		},
		logger,
	)
}

func newPublisher(bootstrap string, logger watermill.LoggerAdapter) (message.Publisher, error) {
	config := kafka.DefaultSaramaSyncPublisherConfig()
	config.Version = sarama.V3_6_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	// sarama takes idempotence with one request in flight only. The forwarder sends one message
	// after the other, so it waits for nothing because of that.
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	return kafka.NewPublisher(
		kafka.PublisherConfig{
			Brokers:               []string{bootstrap},
			OverwriteSaramaConfig: config,
			Marshaler: kafka.NewWithPartitioningMarshaler(
				func(_ string, msg *message.Message) (string, error) {
					return msg.Metadata.Get("key"), nil
				},
			),
		},
		logger,
	)
}
