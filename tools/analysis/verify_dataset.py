"""Check the data of a config: annotations, classes, and each image and label image."""

import argparse
import sys

from mmsecvit.apis import add_config_options, command, verify_dataset


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='The exit status is 1 if there is an error.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', metavar='FILE.json', help='write the findings to a new JSON file')
    add_config_options(parser, example='train_dataloader.dataset.data_root=data/mine')
    args = parser.parse_args()
    findings = verify_dataset(args.config, args.cfg_options, args.out)
    for finding in findings:
        print(f'{finding.level}: {finding.message}')
        for name in finding.examples if finding.count > 1 else ():
            print(f'    {name}')
        if finding.count > len(finding.examples) > 1:
            print(f'    and {finding.count - len(finding.examples)} more')
    if findings:
        print(f'{"level":8} {"count":>7}  kind')
    for finding in findings:
        print(f'{finding.level:8} {finding.count:7}  {finding.kind}, {finding.file}')
    errors = sum(finding.level == 'error' for finding in findings)
    others = len(findings) - errors
    counts = f'{errors} errors, {others} warnings and mended faults'
    print(counts if findings else 'no faults found')
    sys.exit(bool(errors))


if __name__ == '__main__':
    main()
