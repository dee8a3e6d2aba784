"""All errors of rankloop, as one tree; each concrete one lives beside the code that raises it.

    RankloopError                    ends a command in one line, exit code 1
      UserError                      the user can mend it
        SettingError                 exit code 2; a ValueError as well   stream.settings_schema
        TopicMismatchError                                               stream.kafka.topics
        CorruptFileError             a ValueError as well                stream.storage.tensor_file
        NotAuditableError                                                stream.offline.audit
        NotBetterError                                                   stream.offline.finetune
        StackError                                                       stream.local.process
        NoAnswerError                                                    stream.demo.client
      LogError                       the worker must stop: no retry helps
        LogTruncatedError                                                stream.kafka.reader
        LogMismatchError                                                 stream.kafka.identity
        UnreadableBatchError                                             stream.kafka.consumer
        AuthorizationDeniedError                                         stream.kafka.authorization
        SnapshotMismatchError                                            stream.storage.tensor_file
        DigestMismatchError                                              stream.worker.engine
        DivergedError                                                    agents.errors
        RestartNeededError                                               agents.errors
        UnknownRecordTypeError                                           agents.errors
      RetryableError                 it may work at the next try
        BrokerUnavailableError                                           stream.kafka.authorization
        ProduceError                 a KafkaError as well                stream.kafka.producer
          ProducerStoppedError       of no use any more: a stop          stream.kafka.producer
        PartitionLostError                                               stream.worker.assignment

Outside the tree is `models.codec.InvalidMessageError`, a ValueError: whoever reads a message counts
or refuses it. A plain ValueError or OSError says what is wrong with an argument or a file, and what
Kafka's and Redis's clients raise is theirs; the command line ends these in one line, too.
"""

from agents.errors import LogError as LogError
from agents.errors import RankloopError as RankloopError
from agents.errors import RetryableError as RetryableError
from agents.errors import UserError as UserError
